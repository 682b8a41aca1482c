/** Promise.all that fails only when all have settled, with the first failure: an undo must not overtake work that still goes on. */
export async function allDone<T extends readonly unknown[]>(work: readonly [...{ [K in keyof T]: Promise<T[K]> }]): Promise<T> {
  await Promise.allSettled(work);
  return (await Promise.all(work)) as unknown as T;
}
