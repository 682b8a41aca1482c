import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { kindOf, messageOf } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { HandlerConfig } from '../../../src/config/config.ts';
import { createHandlers } from '../../../src/runtime/handlers.ts';
import type { HandlersConfig } from '../../../src/runtime/handlers.ts';

const handler = (name: string, path: string): HandlerConfig => ({ name, type: 'oci', path, args: [], snapshotter: 'overlay' });

function thrown(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return `${kindOf(error)}: ${messageOf(error)}`;
  }
  return 'nothing';
}

describe('createHandlers', () => {
  let state: string;
  beforeEach(() => (state = mkdtempSync(join(tmpdir(), 'gantry-test-'))));
  afterEach(() => rmSync(state, { recursive: true, force: true }));

  // /bin/true stands for every program: nothing is run that matters here
  const config = (handlers: HandlerConfig[], defaultHandler = 'a'): HandlersConfig => ({
    state,
    handlers,
    defaultHandler,
    conmon: { path: '/bin/true' },
    cgroup: { driver: 'cgroupfs' },
  });

  it('finds drivers by name and the default one by ""', async () => {
    const { get, list } = await createHandlers(config([handler('a', '/bin/true'), handler('b', 'true')]), silentLogger);
    expect(get('')).to.equal(get('a'));
    expect(get('b').handler).to.equal('b');
    expect(list().map(({ name }) => name)).to.deep.equal(['', 'a', 'b']);
  });

  it('lists what each handler can do as its own program says', async () => {
    const idmaps = join(state, 'idmaps');
    const features = { linux: { namespaces: ['user'], mountExtensions: { idmap: { enabled: true } } } };
    writeFileSync(idmaps, `#!/bin/sh\n[ "$1" = features ] && echo '${JSON.stringify(features)}'\n`, { mode: 0o755 });
    const { list } = await createHandlers(config([handler('a', '/bin/true'), handler('b', idmaps)]), silentLogger);
    expect(list().map(({ name, features: { userNamespaces } }) => [name, userNamespaces])).to.deep.equal([
      ['', false],
      ['a', false],
      ['b', true],
    ]);
    const without = await createHandlers(config([handler('a', idmaps)]), silentLogger, { idmaps: false });
    expect(without.list().map(({ features: { userNamespaces } }) => userNamespaces)).to.deep.equal([false, false]);
  });

  it('refuses names that it does not know', async () => {
    const { get } = await createHandlers(config([handler('a', '/bin/true')]), silentLogger);
    expect(thrown(() => get('nope'))).to.equal('invalidArgument: runtime_handler: unknown handler "nope"');
  });

  it('lives without a program that is missing, unless it is the default one', async () => {
    const both = [handler('a', '/bin/true'), handler('b', '/no/such/runtime')];
    const { get, list } = await createHandlers(config(both), silentLogger);
    expect(list().map(({ name }) => name)).to.deep.equal(['', 'a']);
    expect(thrown(() => get('b'))).to.match(/^failedPrecondition: .*"b".*not found/);
    for (const bad of [config(both, 'b'), config(both, 'c')]) {
      let failed = false;
      await createHandlers(bad, silentLogger).catch(() => (failed = true));
      expect(failed).to.equal(true);
    }
  });
});
