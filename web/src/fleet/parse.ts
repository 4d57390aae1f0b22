// Small parsers of unknown JSON. Each throws a ParseError that names the place. Pure.

export class ParseError extends Error {
  constructor(path: string, wanted: string, got: unknown) {
    const shown = JSON.stringify(got) ?? "missing";
    super(`${path || "the answer"} should be ${wanted}, not ${shown.slice(0, 60)}`);
    this.name = "ParseError";
  }
}

export type Parse<T> = (value: unknown, path?: string) => T;

export const number: Parse<number> = (value, path = "") => {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new ParseError(path, "a number", value);
  }
  return value;
};

export const string: Parse<string> = (value, path = "") => {
  if (typeof value !== "string") throw new ParseError(path, "a string", value);
  return value;
};

export const boolean: Parse<boolean> = (value, path = "") => {
  if (typeof value !== "boolean") throw new ParseError(path, "true or false", value);
  return value;
};

export function orNull<T>(parse: Parse<T>): Parse<T | null> {
  return (value, path) => (value === null ? null : parse(value, path));
}

export function oneOf<T extends string>(words: readonly T[]): Parse<T> {
  return (value, path = "") => {
    const found = words.find((word) => word === value);
    if (found === undefined) throw new ParseError(path, words.join(" or "), value);
    return found;
  };
}

export function arrayOf<T>(parse: Parse<T>): Parse<readonly T[]> {
  return (value, path = "") => {
    if (!Array.isArray(value)) throw new ParseError(path, "a list", value);
    return value.map((item, index) => parse(item, `${path}[${index}]`));
  };
}

export function object<F extends Readonly<Record<string, Parse<unknown>>>>(
  fields: F,
): Parse<{ readonly [K in keyof F]: ReturnType<F[K]> }> {
  return (value, path = "") => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new ParseError(path, "an object", value);
    }
    const source = value as Record<string, unknown>;
    const parsed = Object.entries(fields).map(([name, parse]) => [
      name,
      parse(source[name], path === "" ? name : `${path}.${name}`),
    ]);
    return Object.fromEntries(parsed) as { readonly [K in keyof F]: ReturnType<F[K]> };
  };
}
