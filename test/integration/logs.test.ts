import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, eventually } from '../lib/bed.ts';
import { size } from '../lib/size.ts';

const BURST_MIB = size('BURST_MIB', 64, 64);
const BURSTS = size('BURSTS', 1, 1000);
const ROTATED_MIB = size('ROTATED_MIB', 96, 3000);
const ROTATE_EVERY_MS = 100;
const MIB = 1024 * 1024;

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** Lines of every length around what splits them (conmon's 8 KiB reads), some of one byte, the last without an end. */
function lines(sizeBytes: number): Buffer {
  const noise = randomBytes(64 * 1024).toString('base64');
  const parts: string[] = [];
  for (let done = 0, n = 0; done < sizeBytes; n++) {
    const length = n % 50 === 0 ? 8100 + (n % 200) : n % 7 === 0 ? 0 : (n * 37) % 300;
    const line = `${n} ${noise.slice(n % 1000, (n % 1000) + length)}\n`;
    parts.push(line);
    done += line.length;
  }
  return Buffer.from(`${parts.join('')}the end`);
}

/** What was written, put together again from CRI log lines: the tag P joins a line to the next (CRI logging format). */
function reassembled(log: Buffer, stream: string): Buffer {
  const parts: Buffer[] = [];
  for (let from = 0; from < log.length;) {
    const to = log.indexOf(10, from);
    if (to < 0) throw new Error(`the log ends within a line: ${log.subarray(from, from + 100).toString()}`);
    const head = /^\d{4}-\d\d-\d\dT\S+ (stdout|stderr) ([PF]) /.exec(log.toString('latin1', from, Math.min(to, from + 80)));
    if (head === null) throw new Error(`no CRI log line: ${log.subarray(from, Math.min(to, from + 100)).toString()}`);
    if (head[1] === stream) parts.push(log.subarray(from + head[0].length, head[2] === 'F' ? to + 1 : to));
    from = to + 1;
  }
  return Buffer.concat(parts);
}

describe('container logs', function () {
  this.timeout(120_000 + BURSTS * 5000 + ROTATED_MIB * 100);
  let bed: Bed;
  let config: PodSandboxConfig;
  let pod: string;
  let data: string;
  let logs: string;

  before(async () => {
    bed = await Bed.make({ subnet: 4 });
    config = bed.podConfig('logs', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    pod = await bed.runPod(config);
    data = join(bed.gantry.dir, 'data');
    logs = join(bed.gantry.dir, 'logs', 'logs');
    mkdirSync(data);
  });
  after(() => bed.end());

  const runs = (name: string, script: string): Promise<string> =>
    bed.runContainer(
      pod,
      config,
      bed.containerConfig(name, script, { mounts: [{ hostPath: data, containerPath: '/data', readonly: true }] }),
    );
  const ended = (id: string): Promise<void> =>
    eventually(`${id} has ended`, async () => (await bed.status(id)).state === 'CONTAINER_EXITED', 60_000);

  it(`are byte-exact after a burst of ${BURST_MIB} MiB and exit, ${BURSTS} of ${BURSTS} times (R26)`, async () => {
    const written = lines(BURST_MIB * MIB);
    writeFileSync(join(data, 'burst'), written);
    for (let n = 0; n < BURSTS; n++) {
      const startedAtMs = Date.now();
      const id = await runs(`burst-${n}`, 'exec cat /data/burst');
      await ended(id);
      if (n === 0) console.log(`      ${BURST_MIB} MiB in ${Date.now() - startedAtMs} ms`);
      const read = reassembled(readFileSync(join(logs, `burst-${n}.log`)), 'stdout');
      // A last line without an end gets one: nothing else tells it from the next.
      expect(read.length - written.length).to.be.oneOf([0, 1]);
      expect(sha256(read.subarray(0, written.length))).to.equal(sha256(written));
      await bed.cri.runtime('removeContainer', { containerId: id });
      rmSync(join(logs, `burst-${n}.log`), { force: true });
    }
  });

  it('keep the two streams apart', async () => {
    const id = await runs('two', 'for n in 1 2 3; do echo out $n; echo err $n >&2; done; printf "no end"');
    await ended(id);
    const log = readFileSync(join(logs, 'two.log'));
    expect(reassembled(log, 'stdout').toString().trimEnd()).to.equal('out 1\nout 2\nout 3\nno end');
    expect(reassembled(log, 'stderr').toString()).to.equal('err 1\nerr 2\nerr 3\n');
  });

  it(`lose no line of ${ROTATED_MIB} MiB to rotations every ${ROTATE_EVERY_MS} ms (R25)`, async () => {
    const part = lines(MIB);
    const whole = part.subarray(0, part.lastIndexOf(10) + 1);
    writeFileSync(join(data, 'part'), whole);
    const log = join(logs, 'rotated.log');
    const startedAtMs = Date.now();
    const id = await runs('rotated', `n=0; while [ $n -lt ${ROTATED_MIB} ]; do cat /data/part; n=$((n+1)); usleep 10000; done`);
    let rotations = 0;
    while ((await bed.status(id)).state === 'CONTAINER_RUNNING') {
      renameSync(log, `${log}.${String(++rotations).padStart(5, '0')}`);
      try {
        await bed.cri.runtime('reopenContainerLog', { containerId: id });
      } catch (error) {
        // It may end in between; then the renamed file is the last one.
        if ((await bed.status(id)).state === 'CONTAINER_RUNNING') throw error;
      }
      await sleep(ROTATE_EVERY_MS);
    }
    const tookMs = Date.now() - startedAtMs;
    console.log(`      ${rotations} rotations, ${Math.round((ROTATED_MIB * 1000) / tookMs)} MiB/s`);
    const files = readdirSync(logs)
      .filter((name) => name.startsWith('rotated.log'))
      .sort((a, b) => (a === 'rotated.log' ? 1 : b === 'rotated.log' ? -1 : a.localeCompare(b)));
    const read = Buffer.concat(files.map((name) => reassembled(readFileSync(join(logs, name)), 'stdout')));
    expect(read.length).to.equal(whole.length * ROTATED_MIB);
    expect(sha256(read)).to.equal(sha256(Buffer.concat(Array.from({ length: ROTATED_MIB }, () => whole))));
    expect(rotations).to.be.greaterThan(3);
  });

  it('are made anew when they were removed, once the kubelet asks', async () => {
    const id = await runs('gone', 'while :; do echo tick; sleep 0.1; done');
    const log = join(logs, 'gone.log');
    await eventually('it logs', () => readFileSync(log).length > 0);
    renameSync(log, `${log}.1`);
    await bed.cri.runtime('reopenContainerLog', { containerId: id });
    await eventually('it logs again', () => readFileSync(log).length > 0);
    await bed.cri.runtime('stopContainer', { containerId: id, timeout: '0' });
  });
});
