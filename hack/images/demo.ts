import type { Image } from './image.ts';
import { imageOf } from './image.ts';
import { busyboxEntries, findProgram, merged } from './programs.ts';
import type { Entry } from './tree.ts';
import { layerOf } from './tree.ts';

const PAUSE = 'trap "exit 0" TERM INT; while :; do sleep 1000 & wait; done';

/** Holds a pod's PID namespace and collects its orphans, with nothing but the machine's busybox. */
export async function demoPause(): Promise<Image> {
  return imageOf({
    layers: [await layerOf(await busyboxEntries(machineBusybox()))],
    process: { Entrypoint: ['/bin/sh', '-c', PAUSE] },
    format: 'docker',
  });
}

/** A small image of this machine's own busybox: a shell with its applets, user and group files, and one file more so that it has two layers. */
export async function demoImage(): Promise<Image> {
  const files: Entry[] = [
    { path: '/etc/passwd', data: 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n' },
    { path: '/etc/group', data: 'root:x:0:\nweb:x:1000:\nextra:x:2000:web\n' },
    { path: '/tmp', directory: true, mode: 0o1777 },
    { path: '/root', directory: true, mode: 0o700 },
    { path: '/home/web', directory: true, uid: 1000 },
  ];
  const base = await layerOf(merged([...(await busyboxEntries(machineBusybox())), ...files]));
  const page = await layerOf([{ path: '/www/index.html', data: 'hello from gantry\n' }], 'zstd');
  return imageOf({ layers: [base, page], process: { Cmd: ['sh'], Env: ['PATH=/bin', 'FROM=image'] }, indexed: true });
}

function machineBusybox(): string {
  const busybox = findProgram('busybox');
  if (busybox === undefined) throw new Error('no busybox on this machine: run hack/install');
  return busybox;
}
