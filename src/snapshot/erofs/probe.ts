import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClassifiedError, isDiskFull, messageOf } from '../../base/errors.ts';
import { mount } from '../../os/mount.ts';
import { encodeHeader, paddingOf } from '../tar/header.ts';
import { TarReader } from '../tar/reader.ts';
import { writeIndex } from './index-writer.ts';
import { LayerIndexer } from './layer-indexer.ts';
import type { Backing } from './mounting.ts';
import { detachIndex, mountIndex } from './mounting.ts';

/** How this machine mounts layers, as tried. */
export interface ErofsSupport {
  readonly backing: Backing;
  /** A rootfs may itself be the lower layer of an overlay: a mount of files counts as a level of its own on many kernels, and there are two. */
  readonly nests: boolean;
}

/** Best first. */
const BACKINGS: readonly Backing[] = [
  { kind: 'file', direct: true },
  { kind: 'file', direct: false },
  { kind: 'loop', direct: true },
  { kind: 'loop', direct: false },
];

/** Not whole pages, so that what needs alignment shows. */
const CONTENT = randomBytes(10_000);

/**
 * Writes a small layer below `tmpDir`, mounts it, reads it back, and puts an overlay on it and one on that; some milliseconds. failedPrecondition when nothing
 * works, in the kernel's words; ENOSPC and EDQUOT as they are.
 */
export function probeErofs(tmpDir: string, backings = BACKINGS): ErofsSupport {
  const dir = join(tmpDir, `probe-${randomBytes(4).toString('hex')}`);
  try {
    for (const each of ['lower', 'upper', 'work', 'merged', 'upper2', 'work2', 'merged2'])
      mkdirSync(join(dir, each), { recursive: true, mode: 0o700 });
    writeLayer(dir);
    const failures: string[] = [];
    for (const backing of backings) {
      try {
        return { backing, nests: tryBacking(dir, backing) };
      } catch (error) {
        if (isDiskFull(error)) throw error;
        failures.push(`${backing.kind}${backing.direct ? ' direct' : ''}: ${messageOf(error)}`);
      } finally {
        for (const each of ['merged2', 'merged', 'lower']) detachIndex(join(dir, each));
      }
    }
    throw new ClassifiedError('failedPrecondition', `mount an EROFS index of 512-byte blocks and an overlay on it: ${failures.join('; ')}`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function writeLayer(dir: string): void {
  const header = {
    name: 'file',
    type: '0',
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: '0',
    linkName: '',
    devMajor: 0,
    devMinor: 0,
    xattrs: new Map(),
  };
  const bytes = Buffer.concat([encodeHeader({ ...header, sizeBytes: CONTENT.length }), CONTENT, Buffer.alloc(paddingOf(CONTENT.length))]);
  const tar = Buffer.concat([bytes, Buffer.alloc(-bytes.length & 4095)]);
  writeFileSync(join(dir, 'tar'), tar);
  const indexer = new LayerIndexer({ isBottom: true });
  new TarReader(indexer).push(tar);
  const fd = openSync(join(dir, 'index'), 'wx', 0o600);
  try {
    writeIndex(fd, indexer.end(), { digest: '0'.repeat(64), sizeBytes: tar.length });
  } finally {
    closeSync(fd);
  }
}

/** Whether overlays nest. */
function tryBacking(dir: string, backing: Backing): boolean {
  const at = (name: string): string => join(dir, name);
  mountIndex({ index: at('index'), tar: at('tar'), target: at('lower') }, backing);
  if (!readFileSync(at('lower/file')).equals(CONTENT)) throw new Error('it reads back as something else');
  const overlay = (lower: string, suffix: string): void => {
    const data = `lowerdir=${at(lower)},upperdir=${at(`upper${suffix}`)},workdir=${at(`work${suffix}`)}`;
    mount({ type: 'overlay', source: 'overlay', target: at(`merged${suffix}`), data });
    writeFileSync(at(`merged${suffix}/mine`), '');
  };
  overlay('lower', '');
  if (!readFileSync(at('merged/file')).equals(CONTENT)) throw new Error('it reads back as something else through an overlay');
  try {
    overlay('merged', '2');
    return true;
  } catch (error) {
    if (isDiskFull(error)) throw error;
    return false;
  }
}
