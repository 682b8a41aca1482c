import { basename } from 'node:path';
import { ClassifiedError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { newOp, orOver, within } from '../base/op.ts';
import type { RunResult } from '../os/spawn.ts';
import { run } from '../os/spawn.ts';
import type { Traits } from './features.ts';
import { parseTraits } from './features.ts';
import { findProgram } from './program.ts';
import { runtimeWords } from './words.ts';

const VERB_TIMEOUT_MS = 60_000;
const VERSION_TIMEOUT_MS = 10_000;

/** An OCI runtime's command line (runc's, which crun and runsc take too): program, arguments before the verb, verb, id. */
export class RuntimeCli {
  /** Absolute. */
  readonly path: string;
  readonly name: string;
  readonly globals: readonly string[];
  #traits: Promise<Traits> | undefined;

  /** failedPrecondition when there is no such program. */
  constructor(program: string, globals: readonly string[]) {
    this.path = findProgram(program);
    this.name = basename(this.path);
    this.globals = globals;
  }

  /** argv up to the verb. */
  get argv(): readonly string[] {
    return [this.path, ...this.globals];
  }

  /** Asked once; a failure is not remembered. */
  traits(op: Op): Promise<Traits> {
    if (!this.#traits) {
      const asked = this.#ask(newOp('version', { log: op.log, timeoutMs: VERSION_TIMEOUT_MS }));
      this.#traits = asked;
      asked.catch(() => {
        if (this.#traits === asked) this.#traits = undefined;
      });
    }
    return orOver(op, this.#traits);
  }

  async #ask(op: Op): Promise<Traits> {
    const { exitCode, stdout, stderr } = await run(op, { argv: [this.path, '--version'] });
    if (exitCode !== 0) throw new ClassifiedError('unavailable', `${this.name} --version: ${runtimeWords(stderr.toString())}`);
    return parseTraits(stdout.toString('utf8'));
  }

  /** A non-zero exit is a result. */
  run(op: Op, args: readonly string[], input?: string): Promise<RunResult> {
    const argv = [...this.argv, ...args];
    return run(within(op, VERB_TIMEOUT_MS), input === undefined ? { argv } : { argv, input });
  }

  /** A non-zero exit is an error in the runtime's own words. */
  async verb(op: Op, args: readonly [verb: string, ...rest: string[], id: string], input?: string): Promise<void> {
    const { exitCode, stderr } = await this.run(op, args, input);
    if (exitCode === 0) return;
    const words = runtimeWords(stderr.toString('utf8')) || `exit code ${exitCode}`;
    throw new ClassifiedError('internal', `${this.name} ${args[0]} ${args.at(-1)}: ${words}`);
  }
}
