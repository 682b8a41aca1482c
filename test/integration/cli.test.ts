import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { execa } from 'execa';
import { imageOf } from '../../hack/images/image.ts';
import { serveImages } from '../../hack/images/registry.ts';
import { layerOf } from '../../hack/images/tree.ts';
import { Bed, DEMO_IMAGE } from '../lib/bed.ts';

const PROGRAM = fileURLToPath(new URL('../../src/gantry', import.meta.url));

/** What an operator asks a running daemon beside the CRI. */
describe('gantry pull, gantry images and metrics', function () {
  this.timeout(60_000);
  let bed: Bed;
  before(async () => void (bed = await Bed.make({ subnet: 11, flags: ['--metrics-port', '9191'] })));
  after(() => bed.end());

  const gantry = (...args: string[]) => execa(PROGRAM, [...args, '--socket', bed.gantry.socket], { reject: false });

  it('pull with the layers of a slow registry in sight', async () => {
    const image = await imageOf({
      layers: [await layerOf([{ path: '/data', data: 'x'.repeat(4 << 20) }], 'none')],
      process: {},
      format: 'oci',
    });
    await using origin = await serveImages(new Map([['slow:1', image]]));
    // Between the registry and Gantry: a line of some MiB a second.
    const line = createServer(async (request, response) => {
      const answer = await fetch(`http://${origin.host}${request.url}`, { method: request.method ?? 'GET' });
      response.writeHead(answer.status, Object.fromEntries([...answer.headers].filter(([name]) => name !== 'connection')));
      const body = Buffer.from(await answer.arrayBuffer());
      for (let at = 0; at < body.length && request.method !== 'HEAD'; at += 512 << 10) {
        response.write(body.subarray(at, at + (512 << 10)));
        if (body.length > 1 << 20) await sleep(150);
      }
      response.end();
    });
    await new Promise<void>((resolve) => line.listen(0, '127.0.0.1', resolve));
    const certs = join(bed.gantry.dir, 'certs.d/slow.test');
    mkdirSync(certs, { recursive: true });
    writeFileSync(join(certs, 'hosts.toml'), `server = "http://127.0.0.1:${(line.address() as AddressInfo).port}"\n`);
    const { exitCode, stdout, stderr } = await gantry('pull', 'slow.test/slow:1');
    line.closeAllConnections();
    line.close();
    expect(exitCode, stderr).to.equal(0);
    expect(stdout).to.match(/^sha256:[0-9a-f]{64}$/);
    expect(stderr).to.match(/^[0-9a-f]{12} {2}4\.20 MB {2}fetching$/m);
  });

  it('list what is there', async () => {
    const { stdout, exitCode } = await gantry('images');
    expect(exitCode).to.equal(0);
    expect(stdout).to.include(DEMO_IMAGE);
    expect(stdout).to.match(/^IMAGE +ID +SIZE/);
  });

  it('count what the daemon did, where a port is given for it', async () => {
    const text = await (await fetch('http://127.0.0.1:9191/metrics')).text();
    expect(text).to.match(/^gantry_cri_call_seconds_count\{rpc="PullImage",result="ok"\} [1-9]/m);
    expect(text).to.match(/^gantry_cri_stage_seconds_count\{rpc="PullImage",stage="layers"\} [1-9]/m);
  });

  it('fail in the daemon’s words, or say that there is none', async () => {
    const missing = await gantry('pull', 'images.test/none:1');
    expect(missing.exitCode).to.equal(1);
    expect(missing.stderr).to.match(/^gantry: .*none/);
    const nobody = await execa(PROGRAM, ['images', '--socket', '/nonexistent/gantry.sock'], { reject: false });
    expect(nobody.stderr).to.equal('gantry: no gantry answers on /nonexistent/gantry.sock');
    expect((await gantry('pull')).stderr).to.include('an image is expected');
  });
});
