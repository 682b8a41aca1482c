type Kind = 'string' | 'number' | 'object' | 'array' | 'digits';

/** Throws, naming it, when one of `fields` (dotted path -> kind) is missing or of another kind. For files that something else may have written to. */
export function expectShape(value: unknown, fields: Readonly<Record<string, Kind>>): void {
  for (const [path, kind] of Object.entries(fields)) {
    if (!isOf(kind, at(value, path.split('.')))) throw new Error(`${path} is missing or not of its type`);
  }
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (inner, name) => (typeof inner === 'object' && inner !== null ? (inner as Record<string, unknown>)[name] : undefined),
    value,
  );
}

function isOf(kind: Kind, value: unknown): boolean {
  if (kind === 'array') return Array.isArray(value);
  if (kind === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  if (kind === 'digits') return typeof value === 'string' && /^\d+$/.test(value);
  return typeof value === kind;
}
