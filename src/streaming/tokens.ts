import { randomBytes } from 'node:crypto';
import { ClassifiedError } from '../base/errors.ts';

/** 144 bits, 24 characters of base64url. */
const TOKEN_BYTES = 18;

/** One-time tokens (S8): each stands for what was asked for, until it is taken or `lifetimeMs` have passed. At most `max` at a time. */
export class Tokens<T> {
  readonly #max: number;
  readonly #lifetimeMs: number;
  readonly #nowMs: () => number;
  /** In order of age, as every token lives equally long. */
  readonly #entries = new Map<string, { readonly value: T; readonly endsAtMs: number }>();

  constructor(max: number, lifetimeMs: number, nowMs: () => number = () => performance.now()) {
    this.#max = max;
    this.#lifetimeMs = lifetimeMs;
    this.#nowMs = nowMs;
  }

  /** resourceExhausted when `max` tokens wait for their clients. */
  add(value: T): string {
    this.#dropOld();
    if (this.#entries.size >= this.#max)
      throw new ClassifiedError('resourceExhausted', `${this.#max} streaming urls wait for their clients already`);
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    this.#entries.set(token, { value, endsAtMs: this.#nowMs() + this.#lifetimeMs });
    return token;
  }

  /** Undefined when the token was taken before, is too old, or never was. */
  take(token: string): T | undefined {
    this.#dropOld();
    const entry = this.#entries.get(token);
    this.#entries.delete(token);
    return entry?.value;
  }

  get size(): number {
    return this.#entries.size;
  }

  #dropOld(): void {
    const nowMs = this.#nowMs();
    for (const [token, { endsAtMs }] of this.#entries) {
      if (endsAtMs > nowMs) return;
      this.#entries.delete(token);
    }
  }
}
