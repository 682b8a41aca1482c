import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { findProgram } from '../../images/programs.ts';
import { timed } from '../workload.ts';
import type { StoredLayer } from './shelf.ts';

/**
 * The fastest that this machine has. gzip and pigz are not among them: they take two to three times as long as Node's zlib, and a daemon that inflates with
 * that would be below the floor.
 */
export const INFLATER: string = findProgram('igzip') === undefined ? 'node zlib' : 'igzip';
const NODE_INFLATE = `process.stdin.pipe(require('zlib').createGunzip({ chunkSize: 1 << 18 })).pipe(process.stdout)`;
const INFLATE = INFLATER === 'igzip' ? 'igzip -dc' : `'${process.execPath}' -e "${NODE_INFLATE}"`;

// The hash of the blob runs beside the rest, the tar's reads what was just written. openssl uses the processor's instructions, sha256sum does not.
const SCRIPT = `set -eu
curl -sSf -o "$2.blob" "$1"
openssl dgst -sha256 -r "$2.blob" >"$2.digest" & hash=$!
${INFLATE} <"$2.blob" >"$2.tar"
openssl dgst -sha256 -r "$2.tar" >"$2.diffid"
wait $hash`;

/**
 * Milliseconds that layers take without any runtime: fetched, both forms hashed, inflated, both written one after the other. As many at a time as keep the
 * cores busy. Fails when a hash is not what it must be: then the bytes were others.
 */
export async function floorMs(repository: string, layers: readonly StoredLayer[], parent: string): Promise<number> {
  const dir = mkdtempSync(join(parent, 'floor-'));
  try {
    const left = [...layers.entries()];
    const lane = async (): Promise<void> => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) {
        const [n, { digest }] = next;
        await script([`${repository}/blobs/${digest}`, join(dir, String(n))]);
      }
    };
    const ms = await timed(() => Promise.all(Array.from({ length: 2 * cpus().length }, lane)));
    for (const [n, { digest, diffId }] of layers.entries()) {
      for (const [file, wanted] of Object.entries({ digest, diffid: diffId })) {
        const hash = readFileSync(join(dir, `${n}.${file}`), 'utf8').split(' ')[0];
        if (`sha256:${hash}` !== wanted) throw new Error(`the floor's ${file} of layer ${n} is ${hash}, not ${wanted}`);
      }
    }
    return ms;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function script(args: readonly string[]): Promise<void> {
  const child = spawn('sh', ['-c', SCRIPT, 'floor', ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
  const [exitCode] = (await once(child, 'exit')) as [number | null];
  if (exitCode !== 0) throw new Error(`the floor's script ended with ${exitCode}`);
}
