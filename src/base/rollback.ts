import { messageOf } from './errors.ts';
import type { Op } from './op.ts';
import { detached } from './op.ts';

const STEP_TIMEOUT_MS = 30_000;

/**
 * Undo steps of a half-done operation: `await using rollback = new Rollback(op)`, `add` before whatever can half-succeed,
 * `commit` once the record is ready. On unwind every step runs, last first, each under a deadline of its own and never the request's.
 */
export class Rollback implements AsyncDisposable {
  readonly #op: Op;
  #steps: Array<{ label: string; undo: (op: Op) => Promise<unknown> | unknown }> = [];
  /** Labels of the steps that failed; the owner of the object decides what becomes of it. */
  readonly failed: string[] = [];

  constructor(op: Op) {
    this.#op = op;
  }

  add(label: string, undo: (op: Op) => Promise<unknown> | unknown): void {
    this.#steps.push({ label, undo });
  }

  commit(): void {
    this.#steps = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const steps = this.#steps.reverse();
    this.#steps = [];
    for (const { label, undo } of steps) {
      try {
        await undo(detached(this.#op, STEP_TIMEOUT_MS));
      } catch (error) {
        this.failed.push(label);
        this.#op.log.error({ step: label, err: messageOf(error) }, 'undo failed');
      }
    }
  }
}
