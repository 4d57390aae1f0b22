// Before the first paint, so that the page never flashes in the other theme.
try {
  const theme = JSON.parse(localStorage.getItem("understudy.settings") ?? "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's theme it is.
}
