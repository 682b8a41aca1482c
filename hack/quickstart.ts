import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { demoImage } from './images/demo.ts';
import { serveImages } from './images/registry.ts';
import { Gantry } from '../test/lib/gantry.ts';

// Short, since sockets lie below it, and private: hack/private has put an empty /tmp here.
const DIR = '/tmp/gantry-quickstart';

const step = (text: string): void => console.log(`\n==> ${text}`);
const show = (text: string): void => console.log(text.trimEnd().replace(/^/gm, '    '));

rmSync(DIR, { recursive: true, force: true });
step('a registry on loopback, with an image of this machine’s own busybox');
await using registry = await serveImages(new Map([['demo/busybox:1', await demoImage()]]));
const image = `${registry.host}/demo/busybox:1`;
show(image);

step('Gantry, with directories, namespaces and a bridge of its own');
const gantry = new Gantry({ dir: DIR });
try {
  await gantry.start();
  const { cri } = gantry;
  const version = await cri.runtime('version', {});
  show(`${version.runtimeName} ${version.runtimeVersion}, CRI ${version.runtimeApiVersion}, on unix://${gantry.socket}`);

  const seen: string[] = [];
  using _events = cri.events((event) => seen.push(`${event.containerEventType} ${event.containerId.slice(0, 13)}`));

  step('pull');
  const pulled = await cri.image('pullImage', { image: { image } });
  show(pulled.imageRef);

  step('a pod with a network of its own');
  const logDirectory = join(DIR, 'logs');
  mkdirSync(logDirectory);
  const config = {
    metadata: { name: 'hello', namespace: 'default', uid: 'quickstart', attempt: 0 },
    hostname: 'hello',
    logDirectory,
    linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' as const } } },
  };
  const { podSandboxId } = await cri.runtime('runPodSandbox', { config });
  const pod = await cri.runtime('podSandboxStatus', { podSandboxId });
  show(`pod ${podSandboxId.slice(0, 13)} is ready at ${pod.status?.network?.ip}`);

  step('a container');
  const { containerId } = await cri.runtime('createContainer', {
    podSandboxId,
    sandboxConfig: config,
    config: {
      metadata: { name: 'web', attempt: 0 },
      image: { image },
      command: ['sh', '-c', 'echo "hello from $(hostname)"; trap "exit 0" TERM; httpd -f -h /www & wait'],
      logPath: 'web.log',
    },
  });
  await cri.runtime('startContainer', { containerId });
  await sleep(500);
  const { status } = await cri.runtime('containerStatus', { containerId });
  show(`container ${containerId.slice(0, 13)} is ${status?.state}`);

  step('its log');
  show(readFileSync(join(logDirectory, 'web.log'), 'utf8'));

  step('exec: wget from inside');
  const exec = await cri.runtime('execSync', { containerId, cmd: ['wget', '-q', '-O', '-', 'http://127.0.0.1/'], timeout: 10 });
  show(`${exec.stdout.toString()}exit code ${exec.exitCode}`);
  if (exec.exitCode !== 0) throw new Error(`wget failed: ${exec.stderr.toString()}`);

  step('stats');
  const { stats } = await cri.runtime('containerStats', { containerId });
  show(`memory ${stats?.memory?.workingSetBytes?.value} bytes, CPU ${stats?.cpu?.usageCoreNanoSeconds?.value} ns`);

  step('stop and remove');
  await cri.runtime('stopContainer', { containerId, timeout: 2 });
  const stopped = await cri.runtime('containerStatus', { containerId });
  show(`exit code ${stopped.status?.exitCode}, ${stopped.status?.reason}`);
  await cri.runtime('stopPodSandbox', { podSandboxId });
  await cri.runtime('removePodSandbox', { podSandboxId });
  await sleep(200);
  step('the events of all that');
  show(seen.join('\n'));
  await gantry.stop();

  step('what is left');
  const left = leftovers(podSandboxId, containerId);
  if (left.length > 0) throw new Error(`left behind: ${left.join(', ')}`);
  show('no mount, no process, no cgroup, no address');
} catch (error) {
  console.error(gantry.logTail());
  throw error;
} finally {
  await gantry.remove();
}

function leftovers(...ids: string[]): string[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${DIR}/state/`));
  const processes = readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return false;
    const file = `/proc/${name}/cmdline`;
    return existsSync(file) && ids.some((id) => readFileSync(file, 'utf8').includes(id));
  });
  const cgroups = ['memory', 'pids', 'unified', '']
    .map((controller) => join('/sys/fs/cgroup', controller, 'gantry'))
    .filter((dir) => existsSync(dir))
    .flatMap((dir) => readdirSync(dir))
    .filter((name) => ids.includes(name));
  const addresses = existsSync(gantry.cniDataDir)
    ? readdirSync(gantry.cniDataDir, { recursive: true, encoding: 'utf8' }).filter((name) => /\/\d+\.\d+\.\d+\.\d+$/.test(name))
    : [];
  return [...mounts, ...processes.map((pid) => `process ${pid}`), ...cgroups, ...addresses];
}
