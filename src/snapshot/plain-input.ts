import { closeSync, constants, openSync } from 'node:fs';
import { ClassifiedError } from '../base/errors.ts';
import type { Child } from '../os/spawn.ts';
import { pipe, spawn } from '../os/spawn.ts';
import type { LayerSource } from './snapshotter.ts';
import { StderrTail } from './stderr-tail.ts';
import type { Compression, Tools } from './tools.ts';
import { inflateArgv } from './tools.ts';

/** By media type (OCI image-spec, "Layer media types"; Docker's schema 2 gzip layers). invalidArgument for others. */
export function compressionOf(mediaType: string): Compression {
  if (/[+.]gzip$/.test(mediaType)) return 'gzip';
  if (/[+.]zstd$/.test(mediaType)) return 'zstd';
  if (/[.]tar$/.test(mediaType)) return 'none';
  throw new ClassifiedError('invalidArgument', `unpack layer: media type ${JSON.stringify(mediaType.slice(0, 100))} is not a layer's`);
}

const SIGKILL = 9;

/** A layer's blob as a descriptor to read from: the output of an inflating program where there is one, else the blob itself. */
export class PlainInput implements AsyncDisposable {
  readonly fd: number;
  /** What is left to inflate for who reads it. */
  readonly inflate: Compression;
  readonly #fds = new DisposableStack();
  readonly #program: { readonly child: Child; readonly stderr: StderrTail } | undefined;

  /** invalidArgument for what is no layer's media type; errors of open(2). Nothing is open or running when it throws. */
  constructor(layer: LayerSource, tools: Tools) {
    const compression = compressionOf(layer.mediaType);
    using fds = new DisposableStack();
    // The program's ends are closed here as soon as it has them: only so does the other side learn that it ended.
    using childFds = new DisposableStack();
    const blob = fds.adopt(openSync(layer.blobPath, constants.O_RDONLY), closeSync);
    const argv = inflateArgv(tools, compression);
    this.inflate = argv === undefined ? compression : 'none';
    this.fd = blob;
    if (argv !== undefined) {
      const plain = pipe();
      this.fd = fds.adopt(plain.read, closeSync);
      childFds.adopt(plain.write, closeSync);
      const words = pipe();
      const stderr = new StderrTail(words.read);
      childFds.adopt(words.write, closeSync);
      const env = { PATH: tools.path, LC_ALL: 'C.UTF-8' };
      this.#program = { stderr, child: spawn({ argv, env, stdin: blob, stdout: plain.write, stderr: words.write }) };
    }
    this.#fds = fds.move();
  }

  /** Who reads it comes to an end soon. */
  kill(): void {
    this.#program?.child.kill(SIGKILL);
  }

  /** Once all was read. dataLoss when the program could not inflate it. */
  async check(layer: LayerSource): Promise<void> {
    if (this.#program === undefined) return;
    const { exitCode } = await this.#program.child.exited;
    if (exitCode !== 0) throw new ClassifiedError('dataLoss', `inflate layer ${layer.diffId}: ${await this.#program.stderr.text()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.#program?.child.exited;
    this.#fds.dispose();
  }
}
