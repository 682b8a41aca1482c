/**
 * Proves the table of src/README.md: a room imports only rooms of lower rows, rooms of the driver row never each other, and there is no cycle among files.
 * `--print` shows the edges between rooms. Type imports count, those from src/gen are free.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const SRC = fileURLToPath(new URL('../src', import.meta.url));

const ROWS: Readonly<Record<string, number>> = {
  main: 8,
  daemon: 7,
  cri: 6,
  cli: 6,
  streaming: 6,
  container: 5,
  sandbox: 4,
  image: 4,
  stats: 4,
  metrics: 4,
  events: 4,
  nri: 4,
  runtime: 3,
  network: 3,
  snapshot: 3,
  content: 3,
  registry: 3,
  os: 2,
  config: 2,
  base: 1,
};

/** Within one row, or against it: what the table says in words. */
const EXTRA: ReadonlySet<string> = new Set(['os -> base', 'config -> base']);
const PACKAGES: ReadonlyArray<{ readonly name: RegExp; readonly rooms: ReadonlySet<string> }> = [
  { name: /^@grpc\//, rooms: new Set(['cri', 'cli']) },
  { name: /^prom-client$/, rooms: new Set(['metrics']) },
  { name: /^pino$/, rooms: new Set(['base']) },
  { name: /^koffi$/, rooms: new Set(['os']) },
  { name: /^(node:)?child_process$/, rooms: new Set() },
];

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return entry.name === 'gen' ? [] : filesBelow(path);
    return entry.name.endsWith('.ts') ? [path] : [];
  });
}

const roomOf = (path: string): string => {
  const [first = '', ...rest] = relative(SRC, path).split('/');
  return rest.length > 0 ? first : first.replace(/\.ts$/, '');
};

const problems: string[] = [];
const edges = new Map<string, Set<string>>();
const graph = new Map<string, string[]>();

for (const file of filesBelow(SRC)) {
  const room = roomOf(file);
  const targets: string[] = [];
  for (const [, specifier = ''] of readFileSync(file, 'utf8').matchAll(/^(?:import|export)\b[^;]*?\bfrom '([^']+)'/gms)) {
    if (!specifier.startsWith('.')) {
      const rule = PACKAGES.find(({ name }) => name.test(specifier));
      if (rule && !rule.rooms.has(room)) problems.push(`${relative(SRC, file)} imports ${specifier}, which is not for ${room}/`);
      continue;
    }
    const target = resolve(dirname(file), specifier);
    const to = roomOf(target);
    if (to === 'gen') continue;
    targets.push(target);
    if (to === room) continue;
    (edges.get(room) ?? edges.set(room, new Set()).get(room))?.add(to);
    const [from, below] = [ROWS[room], ROWS[to]];
    if (from === undefined || below === undefined) problems.push(`${relative(SRC, file)}: ${from === undefined ? room : to}/ is in no row`);
    else if (below >= from && !EXTRA.has(`${room} -> ${to}`))
      problems.push(
        `${relative(SRC, file)} imports ${relative(SRC, target)}: ${room}/ stands ${below === from ? 'beside' : 'below'} ${to}/`,
      );
  }
  graph.set(file, targets);
}

// Type-only cycles inside a room are cycles too.
const state = new Map<string, 'open' | 'done'>();
const visit = (file: string, path: readonly string[]): void => {
  if (state.get(file) === 'done') return;
  if (state.get(file) === 'open') {
    problems.push(`cycle: ${[...path.slice(path.indexOf(file)), file].map((each) => relative(SRC, each)).join(' -> ')}`);
    return;
  }
  state.set(file, 'open');
  for (const target of graph.get(file) ?? []) visit(target, [...path, file]);
  state.set(file, 'done');
};
for (const file of graph.keys()) visit(file, []);

if (process.argv.includes('--print')) for (const [room, to] of [...edges].sort()) console.log(`${room} -> ${[...to].sort().join(', ')}`);
for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
