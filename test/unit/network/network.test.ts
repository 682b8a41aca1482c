import { expect } from 'chai';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { newOp } from '../../../src/base/op.ts';
import type { Network, PodNetworkRequest } from '../../../src/network/attach.ts';
import { addressesOf } from '../../../src/network/chain.ts';
import { isAtLeast, parseConflist } from '../../../src/network/conflist.ts';
import { hasNoAddress } from '../../../src/network/invoke.ts';
import { releaseStale } from '../../../src/network/ipam-gc.ts';
import { createNetwork } from '../../../src/network/network.ts';

// Writes what it was asked to $dir/calls, and fails or sleeps when a file named after plugin and command says so.
const FAKE = (dir: string, name: string): string => `#!/bin/sh
input=$(cat)
printf '%s\\t%s\\t%s\\t%s\\n' ${name} "$CNI_COMMAND" "$CNI_ARGS" "$input" >> ${dir}/calls
if [ -f ${dir}/${name}.$CNI_COMMAND.sleep ]; then sleep 30; fi
if [ -f ${dir}/${name}.$CNI_COMMAND.fail ]; then
  left=$(cat ${dir}/${name}.$CNI_COMMAND.fail)
  if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > ${dir}/${name}.$CNI_COMMAND.fail
    echo '{"cniVersion":"1.0.0","code":100,"msg":"no more addresses","details":"range is full"}'
    exit 1
  fi
fi
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","mac":"aa:bb","sandbox":"/x"}],"ips":[{"address":"10.1.2.3/24","interface":1}]}'
exit 0
`;

describe('network', () => {
  let dir: string;
  let network: Network & { close(): Promise<void> };
  const conf = (): string => join(dir, 'net.d');
  const calls = (): string[][] =>
    existsSync(join(dir, 'calls'))
      ? readFileSync(join(dir, 'calls'), 'utf8')
          .trim()
          .split('\n')
          .map((line) => line.split('\t'))
      : [];
  const request = (change: Partial<PodNetworkRequest> = {}): PodNetworkRequest => ({
    sandboxId: 'a'.repeat(64),
    netnsPath: '/run/x',
    pod: { name: 'web', namespace: 'default', uid: 'u' },
    portMappings: [],
    dns: { servers: [], searches: [], options: [] },
    cgroupPath: '/pods/a',
    bandwidth: undefined,
    ...change,
  });
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(conf(), name), typeof value === 'string' ? value : JSON.stringify(value));
  const two = { cniVersion: '1.0.0', name: 'two', plugins: [{ type: 'first', capabilities: { portMappings: true } }, { type: 'second' }] };

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-cni-'));
    mkdirSync(conf());
    for (const name of ['first', 'second', 'portmap']) {
      writeFileSync(join(dir, name), FAKE(dir, name));
      chmodSync(join(dir, name), 0o755);
    }
    write('10-two.conflist', two);
    network = await createNetwork({ config: { confDir: conf(), binDirs: [dir], statusGraceMs: 60_000 }, stateDir: dir, log: silentLogger });
  });
  afterEach(async () => {
    await network.close();
    rmSync(dir, { recursive: true });
  });

  it('adds in order with prevResult, and deletes in reverse with the cached result', async () => {
    const attachment = await network.attach(
      newOp('t'),
      request({ portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIP: '' }] }),
    );
    expect(attachment).to.include({ network: 'two', ifName: 'eth0', mac: 'aa:bb' });
    expect(attachment.ips).to.deep.equal(['10.1.2.3']);
    await network.detach(newOp('t'), request(), attachment);
    expect(calls().map(([name, command]) => `${name} ${command}`)).to.deep.equal(['first ADD', 'second ADD', 'second DEL', 'first DEL']);
    const inputs = calls().map(([, , , text]) => JSON.parse(text ?? '') as Record<string, unknown>);
    expect(inputs[0]).to.not.have.property('prevResult');
    expect(inputs[0]?.['runtimeConfig']).to.deep.equal({
      portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIP: '' }],
    });
    expect(inputs[1]).to.have.property('prevResult');
    expect(inputs[1]).to.not.have.property('runtimeConfig');
    expect(inputs[2]).to.have.property('prevResult');
    expect(calls()[0]?.[2]).to.equal(
      `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=${'a'.repeat(64)};K8S_POD_UID=u`,
    );
  });

  it('deletes the chain when an add fails, and tells it in the words of the plugin (R36)', async () => {
    writeFileSync(join(dir, 'second.ADD.fail'), '1');
    const error = await network.attach(newOp('t'), request()).catch((e: unknown) => e);
    expect(error).to.be.instanceOf(ClassifiedError);
    expect((error as Error).message).to.equal('cni plugin "second" add: no more addresses: range is full (code 100)');
    expect(calls().map(([name, command]) => `${name} ${command}`)).to.deep.equal(['first ADD', 'second ADD', 'second DEL', 'first DEL']);
  });

  it('deletes by what the add began with, whatever is in force since then', async () => {
    const begun = { conflist: await network.conflist() };
    write('05-other.conflist', { cniVersion: '1.0.0', name: 'other', plugins: [{ type: 'first' }] });
    const attachment = await network.attach(newOp('t'), request(), begun.conflist);
    expect(attachment).to.deep.include({ network: 'two', conflist: begun.conflist });
    await network.detach(newOp('t'), request(), begun);
    expect(calls().map(([name, command]) => `${name} ${command}`)).to.deep.equal(['first ADD', 'second ADD', 'second DEL', 'first DEL']);
    expect(calls().every(([, , , text]) => (JSON.parse(text ?? '') as { name: string }).name === 'two')).to.equal(true);
  });

  it('tells whether it allows attaching ahead of the pod, and when the directory has changed', async () => {
    let changes = 0;
    network.onChange(() => changes++);
    expect(await network.aheadConflist()).to.equal(undefined);
    const ahead = { cniVersion: '1.0.0', name: 'ahead', plugins: [{ type: 'bridge', ipam: { type: 'host-local' } }] };
    write('05-ahead.conflist', ahead);
    expect(await network.aheadConflist()).to.deep.include({ name: 'ahead', plugins: ahead.plugins });
    expect(await network.aheadConflist()).to.deep.equal(await network.conflist());
    expect(changes).to.equal(1);
  });

  it('knows an add that found no address from others', async () => {
    const said = (msg: string): void => writeFileSync(join(dir, 'second'), `#!/bin/sh\necho '{"code":999,"msg":"${msg}"}'; exit 1\n`);
    for (const [msg, expected] of [
      ['failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.6', true],
      ['the bridge has no IP address', false],
    ] as const) {
      said(msg);
      expect(hasNoAddress(await network.attach(newOp('t'), request()).catch((e: unknown) => e)), msg).to.equal(expected);
    }
  });

  it('deletes under a deadline of its own when the add ran out of time (R3)', async () => {
    writeFileSync(join(dir, 'second.ADD.sleep'), '');
    const error = await network.attach(newOp('t', { timeoutMs: 300 }), request()).catch((e: unknown) => e);
    expect(error).to.have.property('kind', 'deadlineExceeded');
    expect(calls().filter(([, command]) => command === 'DEL')).to.have.length(2);
  });

  it('asks every plugin to delete though one fails; without a namespace a failure is none (R4)', async () => {
    writeFileSync(join(dir, 'second.DEL.fail'), '2');
    const error = await network.detach(newOp('t'), request(), undefined).catch((e: Error) => e.message);
    expect(error).to.contain('cni plugin "second" del: no more addresses');
    expect(calls().map(([name]) => name)).to.deep.equal(['second', 'first']);
    await network.detach(newOp('t'), request({ netnsPath: '' }), undefined);
  });

  it('does not run portmap without ports (R27)', async () => {
    write('05-ports.conflist', {
      cniVersion: '1.0.0',
      name: 'ports',
      plugins: [{ type: 'first' }, { type: 'portmap', capabilities: { portMappings: true } }],
    });
    await network.attach(newOp('t'), request());
    expect(calls().map(([name]) => name)).to.deep.equal(['first']);
  });

  it('notices a changed directory at once, passes a broken file over, and says why there is none', async () => {
    write('05-broken.conflist', '{');
    write('06-other.conf', { cniVersion: '0.4.0', name: 'other', type: 'first' });
    expect((await network.attach(newOp('t'), request())).network).to.equal('other');
    for (const name of ['05-broken.conflist', '06-other.conf', '10-two.conflist']) rmSync(join(conf(), name));
    expect(await network.attach(newOp('t'), request()).catch((e: Error) => e.message)).to.contain('no configuration in');
    expect(network.status()).to.include({ ready: false, reason: 'NetworkPluginNotReady' });
    utimesSync(conf(), 0, 0);
  });

  it('takes no result, garbage or a result without an address for a failure, and undoes it', async () => {
    const plugin = (result: string): void => {
      write('05-one.conflist', { cniVersion: '1.0.0', name: 'one', plugins: [{ type: 'answers' }] });
      writeFileSync(
        join(dir, 'answers'),
        `#!/bin/sh\necho $CNI_COMMAND >> ${dir}/answered\n[ $CNI_COMMAND = DEL ] || printf '%s' '${result}'\n`,
      );
      chmodSync(join(dir, 'answers'), 0o755);
    };
    for (const [result, words] of [
      ['', 'cni plugin "answers" add: it printed no result'],
      ['<html>', 'cni plugin "answers" add: its result is not JSON: <html>'],
      ['{"cniVersion":"1.0.0","ips":[]}', 'cni network "one" add: its result has no address for eth0'],
    ] as const) {
      plugin(result);
      rmSync(join(dir, 'answered'), { force: true });
      const error = (await network.attach(newOp('t'), request()).catch((e: unknown) => e)) as ClassifiedError;
      expect(error.kind).to.equal('internal');
      expect(error.message).to.equal(words);
      expect(readFileSync(join(dir, 'answered'), 'utf8')).to.equal('ADD\nDEL\n');
    }
  });

  it('undoes what there is of a list whose plugin is not installed; once added, its DEL is due', async () => {
    write('05-lacks.conflist', { cniVersion: '1.0.0', name: 'lacks', plugins: [{ type: 'first' }, { type: 'absent' }] });
    const error = (await network.attach(newOp('t'), request()).catch((e: unknown) => e)) as ClassifiedError;
    expect(error.kind).to.equal('failedPrecondition');
    expect(error.message).to.equal(`cni plugin "absent": not found in ${dir}`);
    await network.detach(newOp('t'), request(), undefined);
    expect(calls().map(([name, command]) => `${name} ${command}`)).to.deep.equal(['first ADD', 'first DEL', 'first DEL']);
    rmSync(join(conf(), '05-lacks.conflist'));
    const attachment = await network.attach(newOp('t'), request());
    rmSync(join(dir, 'second'));
    expect(await network.detach(newOp('t'), request(), attachment).catch((e: Error) => e.message)).to.contain(
      'cni plugin "second": not found',
    );
  });

  it('gives capabilities to plugins that declare them, and a burst that the plugin can count', async () => {
    const capabilities = { bandwidth: true, dns: true, cgroupPath: true, portMappings: false };
    write('05-able.conflist', { cniVersion: '1.0.0', name: 'able', plugins: [{ type: 'first', capabilities }, { type: 'second' }] });
    const dns = { servers: ['10.0.0.10'], searches: ['x'], options: ['ndots:5'] };
    await network.attach(newOp('t'), request({ dns, bandwidth: { ingressRate: 1e6, egressRate: 1e12 } }));
    const [first, second] = calls().map(([, , , text]) => JSON.parse(text ?? '') as Record<string, unknown>);
    expect(first?.['runtimeConfig']).to.deep.equal({
      bandwidth: { ingressRate: 1e6, ingressBurst: 1e6, egressRate: 1e12, egressBurst: 0xffff_ffff },
      dns,
      cgroupPath: '/pods/a',
    });
    expect(second).to.not.have.property('runtimeConfig');
  });

  it('CHECK asks every plugin with the cached result, unless the list forbids it', async () => {
    const attachment = await network.attach(newOp('t'), request());
    await network.check(newOp('t'), request(), attachment);
    const checks = calls().filter(([, command]) => command === 'CHECK');
    expect(checks.map(([name]) => name)).to.deep.equal(['first', 'second']);
    for (const [, , , text] of checks)
      expect((JSON.parse(text ?? '') as { prevResult: unknown }).prevResult).to.deep.equal(attachment.result);
    writeFileSync(join(dir, 'second.CHECK.fail'), '1');
    expect(await network.check(newOp('t'), request(), attachment).catch((e: Error) => e.message)).to.contain('"second" check: no more');
    await network.check(newOp('t'), request(), { ...attachment, conflist: { ...(attachment.conflist as object), disableCheck: true } });
    expect(calls().filter(([, command]) => command === 'CHECK')).to.have.length(4);
  });

  it('GC names the attachments that are valid, to lists of 1.1.0 that allow it', async () => {
    await network.gc(newOp('t'), ['a'.repeat(64)]);
    expect(calls()).to.deep.equal([]);
    write('05-new.conflist', { ...two, cniVersion: '1.1.0', name: 'new' });
    await network.gc(newOp('t'), ['a'.repeat(64)]);
    expect(calls().map(([name, command]) => `${name} ${command}`)).to.deep.equal(['first GC', 'second GC']);
    const input = JSON.parse(calls()[0]?.[3] ?? '') as Record<string, unknown>;
    expect(input['cni.dev/valid-attachments']).to.deep.equal([{ containerID: 'a'.repeat(64), ifname: 'eth0' }]);
    write('05-new.conflist', { ...two, cniVersion: '1.1.0', name: 'new', disableGC: true });
    await network.gc(newOp('t'), []);
    expect(calls()).to.have.length(2);
  });

  it('is not ready while a plugin is missing or says so, before it was ever ready', async () => {
    await network.close();
    const made = (): Promise<typeof network> =>
      createNetwork({ config: { confDir: conf(), binDirs: [dir], statusGraceMs: 60_000 }, stateDir: dir, log: silentLogger });
    write('10-two.conflist', { ...two, cniVersion: '1.1.0' });
    writeFileSync(join(dir, 'second.STATUS.fail'), '1');
    network = await made();
    expect(network.status()).to.deep.equal({
      ready: false,
      reason: 'NetworkPluginNotReady',
      message: 'cni plugin "second" status: no more addresses: range is full (code 100)',
    });
    await network.close();
    network = await made();
    expect(network.status()).to.include({ ready: true });
    await network.close();
    write('10-two.conflist', { ...two, plugins: [{ type: 'first' }, { type: 'missing' }] });
    network = await made();
    expect(network.status().message).to.equal(`cni plugin "missing": not found in ${dir}`);
  });

  it('does not wait for a plugin that hangs in STATUS', async () => {
    await network.close();
    write('10-two.conflist', { ...two, cniVersion: '1.1.0' });
    writeFileSync(join(dir, 'first.STATUS.sleep'), '');
    const startedMs = Date.now();
    network = await createNetwork({ config: { confDir: conf(), binDirs: [dir], statusGraceMs: 0 }, stateDir: dir, log: silentLogger });
    expect(Date.now() - startedMs).to.be.within(900, 3000);
    expect(network.status()).to.include({ ready: false, message: 'the cni plugins have not said yet that they are ready' });
  });

  it('refuses pod names that would change CNI_ARGS (S7)', async () => {
    const error = await network.attach(newOp('t'), request({ pod: { name: 'x;IP=1', namespace: 'n', uid: 'u' } })).catch((e: unknown) => e);
    expect(error).to.have.property('kind', 'invalidArgument');
  });

  it('reads configurations strictly', () => {
    expect(parseConflist('{"cniVersion":"0.3.1","cniVersions":["0.4.0","1.0.0"],"name":"n","plugins":[{"type":"x"}]}').cniVersion).to.equal(
      '1.0.0',
    );
    for (const text of [
      '[]',
      '{"name":"n"}',
      '{"cniVersion":"9.0.0","name":"n","type":"x"}',
      '{"cniVersion":"1.0.0","name":"../n","type":"x"}',
      '{"cniVersion":"1.0.0","name":"n","type":"../x"}',
    ])
      expect(() => parseConflist(text), text).to.throw();
    expect(isAtLeast('1.0.0', '0.4.0')).to.equal(true);
    expect(isAtLeast('0.3.1', '0.4.0')).to.equal(false);
    expect(addressesOf(null).ips).to.deep.equal([]);
  });

  it("releases host-local's entries of pods that are gone, and nobody else's (R4)", async () => {
    const data = join(dir, 'ipam', 'n');
    mkdirSync(data, { recursive: true });
    const [gone, valid] = ['b'.repeat(64), 'c'.repeat(64)];
    writeFileSync(join(data, '10.0.0.2'), `${gone}\r\neth0`);
    writeFileSync(join(data, '10.0.0.3'), `${valid}\r\neth0`);
    writeFileSync(join(data, '10.0.0.4'), 'another-runtime\r\neth0');
    writeFileSync(join(data, 'last_reserved_ip.0'), '10.0.0.4');
    const conflist = parseConflist(
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'n',
        plugins: [{ type: 'x', ipam: { type: 'host-local', dataDir: join(dir, 'ipam') } }],
      }),
    );
    expect(await releaseStale(conflist, (id) => id === valid)).to.deep.equal(['10.0.0.2']);
    expect(existsSync(join(data, '10.0.0.3')) && existsSync(join(data, '10.0.0.4'))).to.equal(true);
  });
});
