/** Least bytes that a message of a streamed list can't exceed by much: clients refuse more than 4 MiB, and one message at a time is held per call (P8). */
const MAX_WEIGHT = 3 * 1024 * 1024;
/** Views made at a time where making one waits for files. */
const CONCURRENT = 64;

/** Tag, length and a number's bytes on the wire come to less than this. */
const FIELD_BYTES = 12;
/** UTF-8 of one UTF-16 unit. */
const MAX_UNIT_BYTES = 3;

/** An upper bound, in bytes, of a message on the wire, and a cheap one: a string counts for the worst that its characters could take. */
export function weightOf(value: unknown): number {
  if (typeof value === 'string') return FIELD_BYTES + MAX_UNIT_BYTES * value.length;
  if (value === null || value === undefined) return 0;
  if (typeof value !== 'object') return FIELD_BYTES;
  if (value instanceof Uint8Array) return FIELD_BYTES + value.length;
  let sum = FIELD_BYTES;
  // The keys of a map go over the wire; those of a message don't, but look the same here.
  if (Array.isArray(value)) for (const each of value) sum += weightOf(each);
  else for (const [key, each] of Object.entries(value)) sum += FIELD_BYTES + MAX_UNIT_BYTES * key.length + weightOf(each);
  return sum;
}

/** Views of all records in their order, a bounded number in the making at a time. */
export async function viewsOf<T, View>(records: readonly T[], view: (record: T) => View | Promise<View>): Promise<View[]> {
  const views: View[] = [];
  for (let at = 0; at < records.length; at += CONCURRENT) {
    views.push(...(await Promise.all(records.slice(at, at + CONCURRENT).map(view))));
  }
  return views;
}

/**
 * A list in messages below 4 MiB, each made when the one before has gone: memory holds one of them. A record that is larger by itself is a message
 * by itself; no records are no message.
 */
export async function* inChunks<T, View, Message>(
  records: readonly T[],
  view: (record: T) => View | Promise<View>,
  message: (part: View[]) => Message,
): AsyncGenerator<Message> {
  let part: View[] = [];
  let weight = 0;
  for (let at = 0; at < records.length; at += CONCURRENT) {
    for (const each of await viewsOf(records.slice(at, at + CONCURRENT), view)) {
      const more = weightOf(each);
      if (part.length > 0 && weight + more > MAX_WEIGHT) {
        yield message(part);
        [part, weight] = [[], 0];
      }
      part.push(each);
      weight += more;
    }
  }
  if (part.length > 0) yield message(part);
}
