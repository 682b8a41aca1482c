/** Larger parts are made anew for each answer: what is kept of a record stays small beside the record itself. */
const MAX_KEPT_BYTES = 16 * 1024;

/**
 * An answer that says of each record the same kind of thing, and nothing else. On the wire it is the answers for each alone, one after another (protobuf
 * merges messages that are concatenated, and appends what is repeated), and a record is never changed in place: its part is encoded once.
 */
export class OfRecords<Message> {
  readonly records: readonly object[];
  readonly alone: (record: never) => Message;

  private constructor(records: readonly object[], alone: (record: never) => Message) {
    this.records = records;
    this.alone = alone;
  }

  /** `alone` is the whole answer, were `record` the only one; in one RPC it says of a record always the same, whatever was asked. */
  static from<T extends object, Message>(records: readonly T[], alone: (record: T) => Message): OfRecords<Message> {
    return new OfRecords(records, alone);
  }
}

/** What a row may answer with. */
export type Answer<Message> = Message | OfRecords<Message>;

/** Of one RPC's answers, made of the encoder of its messages: pieces that follow each other. What it keeps goes with the record that it is of. */
export class AnswerEncoder<Message> {
  readonly #plain: (message: Message) => Uint8Array;
  readonly #parts = new WeakMap<object, Uint8Array>();

  constructor(plain: (message: Message) => Uint8Array) {
    this.#plain = plain;
  }

  encode(answer: Answer<Message>): Uint8Array[] {
    return answer instanceof OfRecords ? answer.records.map((record) => this.#part(answer, record)) : [this.#plain(answer)];
  }

  /** In messages of at most `maxBytes`, each made when it is asked for; a record that is larger by itself is a message by itself, no records are no message. */
  *chunks(answer: OfRecords<Message>, maxBytes: number): Generator<Uint8Array[]> {
    let parts: Uint8Array[] = [];
    let sizeBytes = 0;
    for (const record of answer.records) {
      const part = this.#part(answer, record);
      if (parts.length > 0 && sizeBytes + part.length > maxBytes) {
        yield parts;
        [parts, sizeBytes] = [[], 0];
      }
      parts.push(part);
      sizeBytes += part.length;
    }
    if (parts.length > 0) yield parts;
  }

  #part(answer: OfRecords<Message>, record: object): Uint8Array {
    const kept = this.#parts.get(record);
    if (kept !== undefined) return kept;
    const part = this.#plain(answer.alone(record as never));
    if (part.length > MAX_KEPT_BYTES) return part;
    // A copy: what encoders return is a slice of a larger buffer, all of which would be kept.
    const copy = new Uint8Array(part);
    this.#parts.set(record, copy);
    return copy;
  }
}
