import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { errnoOf, invalidArgument, messageOf } from '../../base/errors.ts';
import type { CdiEdits } from '../oci-spec/cdi-edits.ts';
import { mergedEdits } from '../oci-spec/cdi-edits.ts';
import type { CdiSpec } from './spec.ts';
import { parseCdiSpec, parseDeviceName } from './spec.ts';

/** Of a spec file, and of files in a directory (S3): NVIDIA's for eight GPUs split in seven have some 100 KiB. */
const MAX_FILE_BYTES = 4 * 1024 * 1024;
const MAX_FILES = 1000;
const EXTENSIONS: ReadonlySet<string> = new Set(['.json', '.yaml']);

/** A device that a container asks for, and the field that says so. */
export interface CdiRequest {
  readonly name: string;
  readonly field: string;
}

interface SpecFile {
  readonly path: string;
  readonly priority: number;
  /** Changes when the file does. */
  readonly stamp: string;
  readonly spec: CdiSpec | undefined;
  readonly error: string | undefined;
}

/**
 * The CDI specs of this machine. Files are looked at whenever a device is asked for and read when they have changed, so a driver that is installed needs no restart, and
 * a machine without devices pays nothing. A file that is broken is no device's but its own trouble.
 */
export class CdiRegistry {
  readonly #dirs: readonly string[];
  #files: ReadonlyMap<string, SpecFile> = new Map();

  /** `dirs`: later ones win. */
  constructor(dirs: readonly string[]) {
    this.#dirs = dirs;
  }

  /** Everything that these devices ask to have changed, each spec's own edits before those of its first device. invalidArgument names the device that is missing or ambiguous (F18). */
  async editsOf(requests: readonly CdiRequest[]): Promise<CdiEdits> {
    if (requests.length === 0) return mergedEdits([]);
    const files = await this.#refresh();
    const seen = new Set<CdiSpec>();
    return mergedEdits(
      requests.flatMap((request) => {
        const { spec, edits } = this.#find(files, request);
        if (seen.has(spec)) return edits;
        seen.add(spec);
        return [spec.edits, edits];
      }),
    );
  }

  #find(files: readonly SpecFile[], { name, field }: CdiRequest): { spec: CdiSpec; edits: CdiEdits } {
    const parsed = parseDeviceName(name);
    if (parsed === undefined) throw invalidArgument(field, `${JSON.stringify(name)} is not a CDI device name (vendor.com/class=name)`);
    const having = files.flatMap(({ path, priority, spec }) => {
      const edits = spec?.kind === parsed.kind ? spec.devices.get(parsed.device) : undefined;
      return spec === undefined || edits === undefined ? [] : [{ path, priority, spec, edits }];
    });
    const highest = Math.max(...having.map(({ priority }) => priority));
    const [found, ...others] = having.filter(({ priority }) => priority === highest);
    if (found === undefined) throw invalidArgument(field, `no CDI device ${JSON.stringify(name)} ${this.#whereNot(files)}`);
    if (others.length > 0) {
      const paths = [found, ...others].map(({ path }) => path).join(' and ');
      throw invalidArgument(field, `CDI device ${JSON.stringify(name)} is in ${paths}: only one may define it`);
    }
    return found;
  }

  #whereNot(files: readonly SpecFile[]): string {
    const broken = files.flatMap(({ path, error }) => (error === undefined ? [] : `${path}: ${error}`));
    const some = broken.slice(0, 5).join('; ');
    return `in ${this.#dirs.join(', ')}${broken.length === 0 ? '' : ` (${broken.length} broken: ${some})`}`;
  }

  async #refresh(): Promise<SpecFile[]> {
    const known = this.#files;
    const listed = await Promise.all(
      this.#dirs.map((dir, priority) => specPaths(dir).then((paths) => paths.map((path) => ({ path, priority })))),
    );
    const files: SpecFile[] = [];
    for (const { path, priority } of listed.flat()) {
      const file = await load(path, priority, known.get(path));
      if (file !== undefined) files.push(file);
    }
    this.#files = new Map(files.map((file) => [file.path, file]));
    return files;
  }
}

async function specPaths(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch(() => []);
  const specs = names.filter((name) => EXTENSIONS.has(extname(name)) && !name.startsWith('.')).sort();
  return specs.slice(0, MAX_FILES).map((name) => join(dir, name));
}

/** undefined: gone meanwhile. */
async function load(path: string, priority: number, known: SpecFile | undefined): Promise<SpecFile | undefined> {
  let stamp = '';
  try {
    const info = await stat(path, { bigint: true });
    stamp = [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(' ');
    if (known?.stamp === stamp) return known;
    if (!info.isFile()) throw new Error('is not a regular file');
    if (info.size > MAX_FILE_BYTES) throw new Error(`has ${info.size} bytes, the limit is ${MAX_FILE_BYTES}`);
    return { path, priority, stamp, spec: parseCdiSpec(await parse(path, await readFile(path, 'utf8'))), error: undefined };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    return { path, priority, stamp, spec: undefined, error: messageOf(error).split('\n')[0] ?? '' };
  }
}

async function parse(path: string, text: string): Promise<unknown> {
  if (extname(path) === '.json') return JSON.parse(text) as unknown;
  // Loaded where there is YAML to read: most machines have none. 1.1 is what the writers of these files have: 0660 is octal.
  const yaml = await import('yaml');
  return yaml.parse(text, { version: '1.1', logLevel: 'error' }) as unknown;
}
