import { expect } from 'chai';
import { parseProcessTable, treeOf } from '../../../src/runtime/sandboxed.ts';

describe('parseProcessTable', () => {
  it('reads pids and parents by the header', () => {
    const text = `UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         1         0         0         ?         04:22     0s        sh
0         4         3         0         ?         04:23     0s        sleep
`;
    expect([...parseProcessTable(text)]).to.deep.equal([
      [1, 0],
      [4, 3],
    ]);
  });

  it('makes nothing of anything else', () => {
    for (const text of ['', 'error', '[1,2]\n']) expect(parseProcessTable(text).size).to.equal(0);
  });
});

describe('treeOf', () => {
  it('has children of children, in whatever order they are listed, and nobody else', () => {
    const parents = new Map([
      [9, 7],
      [7, 5],
      [5, 1],
      [6, 1],
      [1, 0],
    ]);
    expect([...treeOf(new Set([5]), parents)].toSorted()).to.deep.equal([5, 7, 9]);
    expect([...treeOf(new Set([8]), parents)]).to.deep.equal([8]);
  });
});
