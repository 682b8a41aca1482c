import { setImmediate as nextTurn } from 'node:timers/promises';

/** How much of something may be done in one turn of the event loop, by all who do it. */
export class TurnBudget {
  readonly #limit: number;
  #spent = 0;
  #next: Promise<void> | undefined;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Resolves at once, or in the next turn when this one's budget is spent. */
  async spend(amount: number): Promise<void> {
    this.#spent += amount;
    if (this.#spent < this.#limit) return;
    this.#next ??= nextTurn().then(() => {
      this.#spent = 0;
      this.#next = undefined;
    });
    await this.#next;
  }
}
