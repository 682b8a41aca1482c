import type { ContainerConfig__Output } from '../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { PodSandboxConfig__Output } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import type { ContainerRecord } from '../../src/container/record.ts';
import type { PodSandboxRecord } from '../../src/sandbox/record.ts';

export const podConfig = (change: Partial<PodSandboxConfig__Output> = {}): PodSandboxConfig__Output => ({
  metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 0 },
  hostname: 'web',
  logDirectory: '',
  dnsConfig: null,
  portMappings: [],
  labels: {},
  annotations: {},
  linux: null,
  windows: null,
  ...change,
});

export const podRecord = (change: Partial<PodSandboxRecord> = {}): PodSandboxRecord => ({
  version: 1,
  id: 'a'.repeat(64),
  state: 'ready',
  config: podConfig(),
  runtimeHandler: '',
  createdAtNs: '1700000000000000000',
  bootId: 'boot',
  cgroupParent: '/gantry/a',
  ownsCgroupParent: true,
  networkBegun: true,
  ...change,
});

export const containerConfig = (change: Partial<ContainerConfig__Output> = {}): ContainerConfig__Output => ({
  metadata: { name: 'app', attempt: 0 },
  image: { image: 'busybox', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
  command: [],
  args: [],
  workingDir: '',
  envs: [],
  mounts: [],
  devices: [],
  labels: {},
  annotations: {},
  logPath: '',
  stdin: false,
  stdinOnce: false,
  tty: false,
  linux: null,
  windows: null,
  CDIDevices: [],
  stopSignal: 'RUNTIME_DEFAULT',
  ...change,
});

export const containerRecord = (change: Partial<ContainerRecord> = {}): ContainerRecord => ({
  version: 1,
  id: 'c'.repeat(64),
  sandboxId: 'a'.repeat(64),
  state: 'running',
  config: containerConfig(),
  imageId: `sha256:${'1'.repeat(64)}`,
  imageRef: 'example.test/busybox@sha256:' + '2'.repeat(64),
  runtimeHandler: '',
  bootId: 'boot',
  cgroupPath: '/gantry/a/c',
  logPath: '',
  stopSignal: 15,
  user: { uid: 0, gid: 0, additionalGids: [] },
  resources: null,
  createdAtNs: '1700000000000000001',
  startedAtNs: '0',
  ...change,
});
