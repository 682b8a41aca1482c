import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Op } from '../base/op.ts';
import type { DiskUsage } from '../os/disk-usage.ts';
import { sumOf } from '../os/disk-usage.ts';
import { FilesystemSync, measureTree } from './disk.ts';
import type { LayerFiles, LayerStore, Unpacked } from './layer-store.ts';
import type { LayeredOptions } from './layered.ts';
import { createLayeredSnapshotter } from './layered.ts';
import type { Layer } from './overlay-records.ts';
import type { LayerSource, Snapshotter } from './snapshotter.ts';
import type { Tools } from './tools.ts';
import { findTools } from './tools.ts';
import { unpackLayer } from './unpack.ts';
import { adoptImpliedDirs } from './whiteouts.ts';

/** Layers as directories, unpacked once by an external tar. */
export function createOverlaySnapshotter(options: LayeredOptions & { tools?: Tools }): Promise<Snapshotter> {
  return createLayeredSnapshotter(options, async ({ root }) => new DirectoryLayers(root, options.tools ?? findTools()));
}

class DirectoryLayers implements LayerStore {
  readonly name = 'overlay';
  readonly mountedAs = undefined;
  readonly #layersDir: string;
  readonly #tools: Tools;
  readonly #filesystem: FilesystemSync;

  constructor(root: string, tools: Tools) {
    this.#layersDir = join(root, 'layers');
    this.#tools = tools;
    this.#filesystem = new FilesystemSync(root);
  }

  async load(): Promise<readonly Layer[]> {
    return [];
  }

  async unpack(op: Op, source: LayerSource, { dir, isBottom }: { dir: string; isBottom: boolean }): Promise<Unpacked> {
    const fs = join(dir, 'fs');
    await mkdir(fs, { mode: 0o700 });
    const changes = await unpackLayer(op, source, fs, { tools: this.#tools, isBottom });
    return {
      opaqueRoot: changes.opaques.includes(''),
      complete: async (own, lowers) => {
        const lowerDirs = lowers.map((name) => join(this.#layersDir, name, 'fs'));
        await adoptImpliedDirs(own, { fsDir: fs, paths: changes.impliedDirs, lowerDirs });
        await this.#filesystem.sync(own);
        // Before that a filesystem knows not yet how many blocks it takes.
        return { usage: await measureTree(fs) };
      },
      commit: () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
  }

  mount(): void {
    // It is a directory already.
  }

  unmount(): void {
    // And stays one.
  }

  /** Its record tells of `fs`. */
  usage({ usage }: Layer, { dir, record }: LayerFiles): DiskUsage {
    return sumOf([usage, dir, record]);
  }

  async shared(): Promise<DiskUsage> {
    return sumOf([]);
  }

  /** Nothing tells what its files should hold: they are counted. */
  async isIntact(_op: Op, { name, usage }: Layer): Promise<boolean> {
    const { inodes } = await measureTree(join(this.#layersDir, name, 'fs'));
    return inodes === usage.inodes;
  }

  async forget(): Promise<void> {
    // All of it was in its directory.
  }
}
