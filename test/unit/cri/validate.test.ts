import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import type { PodSandboxConfig__Output } from '../../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import * as validate from '../../../src/cri/validate/index.ts';
import { containerConfig, podConfig } from '../../lib/records.ts';

const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'invalidArgument');
    return (error as Error).message;
  }
  throw new Error('it was accepted');
};

type LinuxPod = NonNullable<PodSandboxConfig__Output['linux']>;
const linuxPod = (change: object): PodSandboxConfig__Output =>
  podConfig({ linux: { cgroupParent: '', securityContext: null, sysctls: {}, overhead: null, resources: null, ...change } as LinuxPod });
const onHost = { namespaceOptions: { network: 'NODE', pid: 'POD', ipc: 'NODE', targetId: '', usernsOptions: null } };

describe('cri/validate', () => {
  it('names the field of a bad sandbox', () => {
    const run = (config: PodSandboxConfig__Output | null): string => refusal(() => validate.runPodSandbox({ config, runtimeHandler: '' }));
    const port = { protocol: 'TCP' as const, containerPort: 80, hostPort: 80, hostIp: '' };
    const cases: Array<[PodSandboxConfig__Output | null, string]> = [
      [null, 'config: is required'],
      [podConfig({ metadata: null }), 'config.metadata: is required'],
      [podConfig({ metadata: { name: '', uid: 'u', namespace: 'n', attempt: 0 } }), 'config.metadata.name: must not be empty'],
      [podConfig({ hostname: 'a'.repeat(65) }), 'config.hostname:'],
      [podConfig({ hostname: 'a b' }), 'config.hostname:'],
      [podConfig({ logDirectory: 'logs' }), 'config.log_directory:'],
      [podConfig({ dnsConfig: { servers: ['1.1.1.1\nsearch x'], searches: [], options: [] } }), 'config.dns_config.servers[0]:'],
      [podConfig({ portMappings: [{ ...port, containerPort: 70000 }] }), 'config.port_mappings[0].container_port:'],
      [podConfig({ portMappings: [{ ...port, hostIp: 'here' }] }), 'config.port_mappings[0].host_ip:'],
      [podConfig({ portMappings: [{ ...port, protocol: 9 as never }] }), 'config.port_mappings[0].protocol:'],
      [linuxPod({ cgroupParent: '/a/../b' }), 'config.linux.cgroup_parent:'],
      [
        linuxPod({ securityContext: { namespaceOptions: null, selinuxOptions: { user: 'a b', role: '', type: '', level: '' } } }),
        'config.linux.security_context.selinux_options.user:',
      ],
      [linuxPod({ sysctls: { 'net.core.somaxconn': '1+kernel.core_pattern=|x\n' } }), 'config.linux.sysctls[net.core.somaxconn]:'],
      [linuxPod({ sysctls: { 'kernel.core_pattern': '|x' } }), 'config.linux.sysctls[kernel.core_pattern]: does not belong'],
      [
        linuxPod({ sysctls: { 'net.core.somaxconn': '1' }, securityContext: onHost }),
        'config.linux.sysctls[net.core.somaxconn]: would change',
      ],
      [
        linuxPod({ securityContext: { namespaceOptions: { ...onHost.namespaceOptions, pid: 7 } } }),
        'config.linux.security_context.namespace_options.pid: 7',
      ],
    ];
    for (const [config, words] of cases) expect(run(config)).to.contain(words);
  });

  it('takes one mapping from 0 on for a user namespace of the pod, and no other mode than NODE', () => {
    const ids = { containerId: 0, hostId: 1000, length: 100_000 };
    type Options = { mode?: string | number; uids?: object[]; gids?: object[] };
    const validated = (options: Options, modes: object = {}): unknown => {
      const usernsOptions = { mode: 'POD', uids: [ids], gids: [{ ...ids, hostId: 5000 }], ...options };
      const namespaceOptions = { network: 'POD', pid: 'POD', ipc: 'POD', targetId: '', ...modes, usernsOptions };
      return validate.runPodSandbox({ config: linuxPod({ securityContext: { namespaceOptions } }), runtimeHandler: '' });
    };
    validated({});
    validated({}, { network: 'NODE' });
    validated({ mode: 'NODE', uids: [], gids: [] });
    const field = 'config.linux.security_context.namespace_options.';
    const cases: Array<[Options, string, object?]> = [
      [{ mode: 'NODE' }, 'userns_options: NODE takes no mappings'],
      [{ mode: 'CONTAINER' }, 'userns_options.mode: CONTAINER is not a mode'],
      [{ mode: 'TARGET' }, 'userns_options.mode: TARGET is not a mode'],
      [{ mode: 9 }, 'userns_options.mode: 9 is not a known'],
      [{ uids: [] }, 'userns_options.uids: one mapping is needed, not 0'],
      [{ gids: [ids, ids] }, 'userns_options.gids: one mapping is needed, not 2'],
      [{ uids: [{ ...ids, containerId: 1 }] }, 'userns_options.uids[0].container_id: must be 0'],
      [{ gids: [{ ...ids, length: 0 }] }, 'userns_options.gids[0].length: must not be 0'],
      [{ gids: [{ ...ids, hostId: 4_294_900_000 }] }, 'userns_options.gids[0].host_id: 4294900000'],
      [{}, 'pid: can', { pid: 'NODE' }],
      [{}, 'ipc: can', { ipc: 'NODE' }],
    ];
    for (const [options, words, modes] of cases) expect(refusal(() => validated(options, modes))).to.contain(field + words);
  });

  it('names the field of a bad container', () => {
    const create = (change: Parameters<typeof containerConfig>[0]): string =>
      refusal(() => validate.createContainer({ podSandboxId: 'a', config: containerConfig(change), sandboxConfig: null }));
    const mount = {
      containerPath: '/x',
      hostPath: '/x',
      readonly: false,
      selinuxRelabel: false,
      propagation: 'PROPAGATION_PRIVATE' as const,
      uidMappings: [],
      gidMappings: [],
      recursiveReadOnly: false,
      image: null,
      imageSubPath: '',
    };
    const limits = {
      ...{ cpuPeriod: '0', cpuQuota: '0', cpuShares: '0', memoryLimitInBytes: '0', oomScoreAdj: '0', cpusetCpus: '', cpusetMems: '' },
      ...{ hugepageLimits: [], unified: {}, memorySwapLimitInBytes: '0' },
    };
    const selinux = (change: object): string =>
      create({
        linux: {
          resources: null,
          securityContext: { namespaceOptions: null, selinuxOptions: { user: '', role: '', type: '', level: '', ...change } } as never,
        },
      });
    expect(selinux({ type: 'a:b' })).to.contain('config.linux.security_context.selinux_options.type: "a:b" is not a name');
    for (const level of ['s0,c4,c5', 's0:c1,', 's0:c1 ', 's0:c1"', 'c1', 's0:c1\n'])
      expect(selinux({ level }), level).to.contain('config.linux.security_context.selinux_options.level: ');
    expect(create({ logPath: '../x' })).to.contain('config.log_path: "../x" leaves the log directory');
    expect(create({ workingDir: 'x' })).to.contain('config.working_dir:');
    expect(create({ envs: [{ key: 'A=B', value: '' }] })).to.contain('config.envs[0].key:');
    expect(create({ args: ['a\0b'] })).to.contain('config.args[0]:');
    expect(create({ mounts: [{ ...mount, containerPath: 'x' }] })).to.contain('config.mounts[0].container_path:');
    expect(create({ mounts: [{ ...mount, hostPath: '' }] })).to.contain('config.mounts[0].host_path:');
    expect(create({ mounts: [{ ...mount, recursiveReadOnly: true }] })).to.contain('config.mounts[0].recursive_read_only: needs readonly');
    const ids = { containerId: 0, hostId: 1000, length: 10 };
    expect(create({ mounts: [{ ...mount, uidMappings: [ids] }] })).to.contain('config.mounts[0].gidMappings: is needed with the other');
    expect(create({ mounts: [{ ...mount, uidMappings: [{ ...ids, length: 0 }], gidMappings: [ids] }] })).to.contain(
      'config.mounts[0].uidMappings[0].length: must not be 0',
    );
    const image = {
      ...mount,
      hostPath: '',
      readonly: true,
      image: { image: 'x', annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
    };
    expect(create({ mounts: [mount, { ...image, readonly: false }] })).to.contain('config.mounts[1].readonly: must be true');
    expect(create({ mounts: [{ ...image, hostPath: '/x' }] })).to.contain('config.mounts[0].host_path: an image volume has none');
    expect(create({ mounts: [{ ...image, propagation: 'PROPAGATION_BIDIRECTIONAL' }] })).to.contain('config.mounts[0].propagation:');
    for (const imageSubPath of ['/etc', '../etc', 'a/../..', 'a\0'])
      expect(create({ mounts: [{ ...image, imageSubPath }] })).to.contain('config.mounts[0].image_sub_path:');
    expect(create({ mounts: [{ ...mount, imageSubPath: 'etc' }] })).to.contain('config.mounts[0].image_sub_path: needs image');
    const resources = { ...limits, memoryLimitInBytes: '-5' };
    expect(create({ linux: { resources, securityContext: null } })).to.contain(
      'config.linux.resources.memory_limit_in_bytes: -5 is negative',
    );
  });

  it('names the field of the rest', () => {
    expect(refusal(() => validate.execSync({ containerId: 'x', cmd: [], timeout: '0' }))).to.contain('cmd: must not be empty');
    expect(refusal(() => validate.execSync({ containerId: 'x', cmd: ['a'], timeout: '-1' }))).to.contain('timeout: -1 is negative');
    expect(refusal(() => validate.stopContainer({ containerId: '', timeout: '0' }))).to.contain('container_id: must not be empty');
    expect(refusal(() => validate.imageOf({ image: null }))).to.contain('image: is required');
    // What a timer can wait: setTimeout makes 1 ms of more, and the container would be killed at once.
    for (const timeout of ['2592000', '31536000', '9223372036854775807']) {
      expect(validate.stopContainer({ containerId: 'x', timeout }).timeoutMs).to.equal(2 ** 31 - 1);
      expect(validate.execSync({ containerId: 'x', cmd: ['a'], timeout }).timeoutMs).to.equal(2 ** 31 - 1);
    }
    expect(validate.stopContainer({ containerId: 'x', timeout: '86400' }).timeoutMs).to.equal(86_400_000);
  });

  it('takes the pod CIDR of a node, single and dual stack, and nothing else for one', () => {
    const update = (podCidr: string) => validate.updateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr } } });
    for (const good of ['', '10.0.0.0/24', 'fd00::/64', '10.0.0.0/24,fd00::/64']) expect(update(good)).to.deep.equal({ podCidr: good });
    for (const bad of ['10.0.0.0', '10.0.0.0/33', 'fd00::/129', '10.0.0.0/24,', 'pods', '10.0.0.0/-1', '10.0.0.0/8/8']) {
      expect(
        refusal(() => update(bad)),
        bad,
      ).to.match(/^runtime_config\.network_config\.pod_cidr: /);
    }
    expect(validate.updateRuntimeConfig({ runtimeConfig: null })).to.deep.equal({ podCidr: '' });
    expect(validate.updateRuntimeConfig({ runtimeConfig: { networkConfig: null } })).to.deep.equal({ podCidr: '' });
  });

  it('names the field of a bad request for streams', () => {
    const exec = { containerId: 'c', cmd: ['sh'], tty: false, stdin: false, stdout: true, stderr: true };
    expect(validate.exec(exec)).to.equal(exec);
    expect(refusal(() => validate.exec({ ...exec, containerId: '' }))).to.match(/^container_id:/);
    expect(refusal(() => validate.exec({ ...exec, cmd: [] }))).to.match(/^cmd:/);
    expect(refusal(() => validate.exec({ ...exec, cmd: [''] }))).to.match(/^cmd\[0\]:/);
    expect(refusal(() => validate.exec({ ...exec, cmd: ['sh', 'a\0b'] }))).to.match(/^cmd\[1\]:/);
    expect(refusal(() => validate.exec({ ...exec, tty: true }))).to.match(/^stderr:/);
    expect(refusal(() => validate.attach({ ...exec, stdout: false, stderr: false }))).to.match(/^stdout: one of/);
    expect(refusal(() => validate.attach({ ...exec, containerId: '' }))).to.match(/^container_id:/);
    expect(validate.portForward({ podSandboxId: 'p', port: [] }).port).to.deep.equal([]);
    expect(refusal(() => validate.portForward({ podSandboxId: 'p', port: [80, 0] }))).to.match(/^port\[1\]:/);
    expect(refusal(() => validate.portForward({ podSandboxId: '', port: [80] }))).to.match(/^pod_sandbox_id:/);
  });
});
