import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import { expect } from 'chai';
import type { ContainerConfig } from '../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { Mount } from '../../src/gen/cri/runtime/v1/Mount.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { Bed, CGROUP, DEMO_IMAGE, eventually } from '../lib/bed.ts';
import { ofPods } from '../lib/warm.ts';

const NOWHERE = 'f'.repeat(64);

/** What a client must not ask for is refused with the field's name, and leaves nothing behind. */
describe('bad input', function () {
  this.timeout(60_000);
  let bed: Bed;
  let pod = '';
  let podConfig: PodSandboxConfig;
  let container = '';

  before(async () => {
    bed = await Bed.make({ subnet: 3 });
    podConfig = bed.podConfig('good');
    pod = await bed.runPod(podConfig);
    container = await bed.runContainer(pod, podConfig, bed.containerConfig('good', 'trap exit TERM; sleep 1000 & wait'));
  });
  after(() => bed.end());

  async function refused(call: Promise<unknown>, code: Code, words: RegExp): Promise<void> {
    const outcome: unknown = await call.then(
      (value) => ({ answered: value }),
      (error: unknown) => error,
    );
    expect(outcome, JSON.stringify(outcome)).to.be.instanceOf(Error);
    const { code: said, details } = outcome as ServiceError;
    expect(`${Code[said]}: ${details}`).to.equal(`${Code[code]}: ${details}`);
    expect(details).to.match(words);
  }
  const whatIsThere = async (): Promise<string> => {
    const { items } = await bed.cri.runtime('listPodSandbox', {});
    const { containers } = await bed.cri.runtime('listContainers', {});
    const listed = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir).sort() : []);
    const { root, state, cniDataDir } = bed.gantry;
    const dirs = [
      ...['sandboxes', 'containers'].map((name) => join(root, name)),
      join(bed.gantry.snapshots, 'active'),
      ...['pods', 'containers'].map((name) => join(state, name)),
      join(cniDataDir, 'gantry-3'),
    ];
    return JSON.stringify({
      pods: items.map(({ id }) => id),
      containers: containers.map(({ id }) => id),
      files: ofPods(bed.gantry, () =>
        dirs.flatMap((dir) => listed(dir).flatMap((name) => (/^(?:lock|last_reserved_ip\.\d+)$/.test(name) ? [] : [`${dir}/${name}`]))),
      ),
      cgroups: listed(`/sys/fs/cgroup/memory${CGROUP}`).filter((name) => !name.includes('.')),
    });
  };
  const unchanged = async (asking: () => Promise<void>): Promise<void> => {
    const before = await whatIsThere();
    await asking();
    await eventually('nothing is left of what was refused', async () => (await whatIsThere()) === before);
  };

  describe('RunPodSandbox', () => {
    const cases: Array<[string, PodSandboxConfig, RegExp]> = [
      ['no metadata', { metadata: null }, /config\.metadata\b/],
      ['no name', { metadata: { name: '', uid: 'u', namespace: 'n' } }, /config\.metadata\.name/],
      ['no namespace', { metadata: { name: 'n', uid: 'u', namespace: '' } }, /config\.metadata\.namespace/],
      ['a host name that is none', { hostname: 'a b' }, /config\.hostname/],
      ['a relative log directory', { logDirectory: 'logs' }, /config\.log_directory/],
      ['a line break in DNS', { dnsConfig: { servers: ['1.1.1.1\nnameserver 2.2.2.2'] } }, /config\.dns_config\.servers/],
      ['a port that is none', { portMappings: [{ containerPort: 70000 }] }, /config\.port_mappings\[0\]/],
      [
        'a host address that is none',
        { portMappings: [{ containerPort: 80, hostPort: 8080, hostIp: 'here' }] },
        /config\.port_mappings\[0\]\.host_ip/,
      ],
      [
        'an unknown protocol',
        { portMappings: [{ containerPort: 80, protocol: 9 as unknown as 'TCP' }] },
        /config\.port_mappings\[0\]\.protocol/,
      ],
      ['a cgroup parent that climbs', { linux: { cgroupParent: '/a/../../b' } }, /config\.linux\.cgroup_parent/],
      ['a sysctl of the host', { linux: { sysctls: { 'kernel.panic': '1' } } }, /config\.linux\.sysctls/],
      [
        'an unknown namespace mode',
        { linux: { securityContext: { namespaceOptions: { pid: 17 as unknown as 'POD' } } } },
        /namespace_options\.pid/,
      ],
      ['TARGET for a pod', { linux: { securityContext: { namespaceOptions: { ipc: 'TARGET' } } } }, /namespace_options\.ipc/],
    ];
    for (const [what, change, words] of cases) {
      it(what, () =>
        unchanged(() =>
          refused(
            bed.runPod({ ...bed.podConfig('bad', change), ...(change.metadata === null ? { metadata: null } : {}) }),
            Code.INVALID_ARGUMENT,
            words,
          ),
        ),
      );
    }

    it('no config at all', () => unchanged(() => refused(bed.cri.runtime('runPodSandbox', {}), Code.INVALID_ARGUMENT, /\bconfig\b/)));

    it('an unknown handler', () =>
      unchanged(() =>
        refused(bed.runPod(bed.podConfig('bad'), 'no-such-handler'), Code.INVALID_ARGUMENT, /runtime_handler|no-such-handler/),
      ));
  });

  describe('CreateContainer', () => {
    const mount = (change: Mount): ContainerConfig => ({ mounts: [{ hostPath: '/tmp', containerPath: '/x', ...change }] });
    const cases: Array<[string, ContainerConfig, RegExp]> = [
      ['no metadata', { metadata: null }, /config\.metadata\b/],
      ['no name', { metadata: { name: '' } }, /config\.metadata\.name/],
      ['no image', { image: null }, /config\.image\b/],
      ['a relative working directory', { workingDir: 'here' }, /config\.working_dir/],
      ['a log path that climbs', { logPath: '../../../etc/cron.d/x' }, /config\.log_path/],
      ['an absolute log path', { logPath: '/etc/cron.d/x' }, /config\.log_path/],
      ['an unknown stop signal', { stopSignal: 4711 as unknown as 'SIGHUP' }, /config\.stop_signal/],
      ['an environment key with "="', { envs: [{ key: 'a=b', value: 'c' }] }, /config\.envs\[0\]\.key/],
      [
        'device permissions that are none',
        { devices: [{ hostPath: '/dev/null', containerPath: '/dev/x', permissions: 'q' }] },
        /config\.devices\[0\]\.permissions/,
      ],
      ['a mount without a host path', mount({ hostPath: '' }), /config\.mounts\[0\]\.host_path/],
      ['a recursively read-only mount that may be written', mount({ recursiveReadOnly: true }), /config\.mounts\[0\]\.recursive_read_only/],
      [
        'a negative memory limit',
        { linux: { resources: { memoryLimitInBytes: '-5' } } },
        /config\.linux\.resources\.memory_limit_in_bytes/,
      ],
      ['a negative CPU share', { linux: { resources: { cpuShares: '-1' } } }, /config\.linux\.resources\.cpu_shares/],
      ['an OOM score out of range', { linux: { resources: { oomScoreAdj: 2000 } } }, /config\.linux\.resources\.oom_score_adj/],
      ['a CPU set that is none', { linux: { resources: { cpusetCpus: 'all' } } }, /config\.linux\.resources\.cpuset_cpus/],
      ['a cgroup file that climbs', { linux: { resources: { unified: { '../memory.max': '1' } } } }, /config\.linux\.resources\.unified/],
      ['a negative user', { linux: { securityContext: { runAsUser: { value: '-1' } } } }, /config\.linux\.security_context\.run_as_user/],
      [
        'a group without a user',
        { linux: { securityContext: { runAsGroup: { value: '1' } } } },
        /config\.linux\.security_context\.run_as_group/,
      ],
    ];
    for (const [what, change, words] of cases) {
      it(what, () => unchanged(() => refused(create(change), Code.INVALID_ARGUMENT, words)));
    }

    const create = (change: ContainerConfig): Promise<unknown> =>
      bed.cri.runtime('createContainer', {
        podSandboxId: pod,
        sandboxConfig: podConfig,
        config: bed.containerConfig('bad', 'true', change),
      });

    it('a pod that is not there', () =>
      unchanged(() =>
        refused(
          bed.cri.runtime('createContainer', {
            podSandboxId: NOWHERE,
            sandboxConfig: podConfig,
            config: bed.containerConfig('bad', 'true'),
          }),
          Code.NOT_FOUND,
          /ffff/,
        ),
      ));

    it('an image that is not there', () =>
      unchanged(() => refused(create({ image: { image: 'images.test/none:1' } }), Code.NOT_FOUND, /images\.test\/none:1/)));

    it('a command that is not there is named, by create or by start, and can be removed', () =>
      unchanged(async () => {
        const made = (await create({ command: ['/no/such/program'] }).catch((error: unknown) => error)) as
          ServiceError | { containerId: string };
        if (made instanceof Error) return void expect(made.details).to.include('/no/such/program');
        await refused(bed.cri.runtime('startContainer', made), Code.NOT_FOUND, /no\/such\/program/);
        await bed.cri.runtime('removeContainer', made);
      }));

    it('a log link does not lead out of the pod directory', async () => {
      const outside = join(bed.gantry.dir, 'outside.log');
      writeFileSync(outside, 'kept');
      const dir = join(bed.gantry.dir, 'logs', 'good');
      mkdirSync(dir, { recursive: true });
      symlinkSync(outside, join(dir, 'linked.log'));
      await unchanged(async () => {
        const made = (await create({ metadata: { name: 'linked' }, command: ['echo', 'overwritten'], logPath: 'linked.log' }).catch(
          (error: unknown) => error,
        )) as ServiceError | { containerId: string };
        if (made instanceof Error) return void expect(made.details).to.include('log');
        await bed.cri.runtime('startContainer', made);
        await eventually('it has ended', async () => (await bed.status(made.containerId)).state === 'CONTAINER_EXITED');
        await bed.cri.runtime('removeContainer', made);
      });
      expect(readFileSync(outside, 'utf8')).to.equal('kept');
    });
  });

  describe('other calls', () => {
    it('ids that are empty', async () => {
      await refused(bed.cri.runtime('podSandboxStatus', {}), Code.INVALID_ARGUMENT, /pod_sandbox_id/);
      await refused(bed.cri.runtime('stopPodSandbox', {}), Code.INVALID_ARGUMENT, /pod_sandbox_id/);
      await refused(bed.cri.runtime('containerStatus', {}), Code.INVALID_ARGUMENT, /container_id/);
      await refused(bed.cri.runtime('startContainer', {}), Code.INVALID_ARGUMENT, /container_id/);
      await refused(bed.cri.runtime('execSync', { cmd: ['true'] }), Code.INVALID_ARGUMENT, /container_id/);
    });

    it('ids of nothing: NotFound, but stop and remove have nothing to do', async () => {
      await refused(bed.cri.runtime('podSandboxStatus', { podSandboxId: NOWHERE }), Code.NOT_FOUND, /ffff/);
      await refused(bed.cri.runtime('containerStatus', { containerId: NOWHERE }), Code.NOT_FOUND, /ffff/);
      await refused(bed.cri.runtime('startContainer', { containerId: NOWHERE }), Code.NOT_FOUND, /ffff/);
      await refused(bed.cri.runtime('containerStats', { containerId: NOWHERE }), Code.NOT_FOUND, /ffff/);
      await bed.cri.runtime('stopContainer', { containerId: NOWHERE });
      await bed.cri.runtime('removeContainer', { containerId: NOWHERE });
      await bed.cri.runtime('stopPodSandbox', { podSandboxId: NOWHERE });
      await bed.cri.runtime('removePodSandbox', { podSandboxId: NOWHERE });
      await bed.cri.image('removeImage', { image: { image: 'images.test/none:1' } });
      expect((await bed.cri.image('imageStatus', { image: { image: 'images.test/none:1' } })).image).to.equal(null);
    });

    it('ExecSync without a command, and with a negative timeout', async () => {
      await refused(bed.cri.runtime('execSync', { containerId: container }), Code.INVALID_ARGUMENT, /\bcmd\b/);
      await refused(
        bed.cri.runtime('execSync', { containerId: container, cmd: ['true'], timeout: '-3' }),
        Code.INVALID_ARGUMENT,
        /timeout/,
      );
    });

    it('StopContainer with a negative grace period', () =>
      refused(bed.cri.runtime('stopContainer', { containerId: container, timeout: '-1' }), Code.INVALID_ARGUMENT, /timeout/));

    it('UpdateContainerResources without resources, and with a negative limit', async () => {
      await refused(bed.cri.runtime('updateContainerResources', { containerId: container }), Code.INVALID_ARGUMENT, /linux/);
      const linux = { memoryLimitInBytes: '-7' };
      await refused(
        bed.cri.runtime('updateContainerResources', { containerId: container, linux }),
        Code.INVALID_ARGUMENT,
        /memory_limit_in_bytes/,
      );
    });

    it('PullImage of what is no reference, and of what no registry has', async () => {
      await refused(bed.cri.image('pullImage', {}), Code.INVALID_ARGUMENT, /image/);
      for (const image of ['', 'UPPER/case:1', 'images.test/demo:bad tag', 'images.test/demo@sha256:12', 'http://images.test/demo']) {
        await refused(bed.cri.image('pullImage', { image: { image } }), Code.INVALID_ARGUMENT, /image/);
      }
      await refused(bed.cri.image('pullImage', { image: { image: 'images.test/none:1' } }), Code.NOT_FOUND, /none/);
    });

    it('an RPC that is not built says so', () =>
      refused(bed.cri.runtime('checkpointContainer', { containerId: container }), Code.UNIMPLEMENTED, /CheckpointContainer/));

    it('a running container is not started twice, and goes on', async () => {
      await refused(bed.cri.runtime('startContainer', { containerId: container }), Code.FAILED_PRECONDITION, /running/i);
      expect((await bed.status(container)).state).to.equal('CONTAINER_RUNNING');
      expect((await bed.cri.image('imageStatus', { image: { image: DEMO_IMAGE } })).image?.repoTags).to.include(DEMO_IMAGE);
    });
  });
});
