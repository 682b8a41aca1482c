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

/** The encoder of one RPC's answers, made of that of its messages. What it keeps goes with the record that it is of. */
export function answerEncoder<Message extends object>(encode: (message: Message) => Buffer): (answer: Answer<Message>) => Buffer {
  const parts = new WeakMap<object, Uint8Array>();
  return (answer) => {
    if (!(answer instanceof OfRecords)) return encode(answer);
    const partOf = (record: object): Uint8Array => {
      const kept = parts.get(record);
      if (kept !== undefined) return kept;
      const part = encode(answer.alone(record as never));
      // A copy: what encoders return is a slice of a larger buffer, all of which would be kept.
      if (part.length <= MAX_KEPT_BYTES) parts.set(record, new Uint8Array(part));
      return part;
    };
    return Buffer.concat(answer.records.map(partOf));
  };
}
