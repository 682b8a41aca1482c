import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import { expect } from 'chai';
import { imageOf } from '../../hack/images/image.ts';
import { demoImage } from '../../hack/images/demo.ts';
import { layerOf } from '../../hack/images/tree.ts';
import type { ContainerConfig } from '../../src/gen/cri/runtime/v1/ContainerConfig.ts';
import type { LinuxContainerSecurityContext } from '../../src/gen/cri/runtime/v1/LinuxContainerSecurityContext.ts';
import type { Mount } from '../../src/gen/cri/runtime/v1/Mount.ts';
import type { PodSandboxConfig } from '../../src/gen/cri/runtime/v1/PodSandboxConfig.ts';
import { mountsUnder } from '../../src/os/mount.ts';
import { Bed, DEMO_IMAGE, eventually } from '../lib/bed.ts';
import { ofPods } from '../lib/warm.ts';

const DATA_IMAGE = 'images.test/data:1';
const VOLUMES_IMAGE = 'images.test/volumes:1';
const SLEEP = 'trap exit TERM; sleep 1000 & wait';

/** What a container is given besides its root filesystem, on the real daemon. */
describe('devices, volumes and mounts of containers', function () {
  this.timeout(300_000);
  let bed: Bed;
  let pod = '';
  let podConfig: PodSandboxConfig;
  let count = 0;
  let cdiDir = '';

  before(async () => {
    const data = imageOf({
      layers: [
        await layerOf([
          { path: '/model/weights', data: 'one\n' },
          { path: '/model/old', data: 'old\n' },
          { path: '/bin/tool', data: '#!/bin/sh\necho tool ran\n', mode: 0o4755 },
          { path: '/deep/link', symlink: '/model' },
          { path: '/deep/escape', symlink: '../../../../../../../../etc' },
          { path: '/deep/host', symlink: '/proc/self/root/etc' },
        ]),
        await layerOf([
          { path: '/model/.wh.old', data: '' },
          { path: '/model/second', data: 'two\n' },
        ]),
      ],
    });
    const demo = await demoImage();
    const volumes = imageOf({
      layers: [
        await layerOf([
          { path: '/links/out', symlink: '../../../../../../../../../tmp' },
          { path: '/links/nowhere', symlink: '/does/not/exist' },
          { path: '/kept/file', data: 'kept\n' },
          { path: '/tmp', directory: true },
        ]),
      ],
      process: {
        Volumes: { '/cache/deep': {}, '/kept': {}, '/links/out/gantry-devices-escaped': {}, '/links/nowhere': {}, relative: {}, '/': {} },
      },
    });
    cdiDir = mkdtempSync(join(tmpdir(), 'gantry-cdi-'));
    chmodSync(cdiDir, 0o755);
    bed = await Bed.make({
      subnet: 7,
      flags: ['--cdi-spec-dir', cdiDir],
      images: new Map([
        ['data:1', data],
        ['volumes:1', volumes],
        ['other:1', demo],
      ]),
    });
    for (const image of [DATA_IMAGE, VOLUMES_IMAGE]) await bed.cri.image('pullImage', { image: { image } });
    podConfig = bed.podConfig('devices', { linux: { securityContext: { namespaceOptions: { pid: 'CONTAINER' } } } });
    pod = await bed.runPod(podConfig);
  });
  after(async () => {
    rmSync(cdiDir, { recursive: true });
    await bed.end();
  });

  const options = { securityContext: { namespaceOptions: { pid: 'CONTAINER' as const } } };
  const run = (script: string, change: ContainerConfig): Promise<string> =>
    bed.runContainer(pod, podConfig, bed.containerConfig(`c${++count}`, script, { linux: options, ...change }));
  const remove = (containerId: string): Promise<unknown> => bed.cri.runtime('removeContainer', { containerId });
  async function sh(containerId: string, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await bed.cri.runtime('execSync', { containerId, cmd: ['sh', '-c', script] });
    return `${stdout.toString()}${stderr.toString()}${exitCode === 0 ? '' : `exit ${exitCode}`}`.trim();
  }
  async function refused(change: ContainerConfig, code: Code, words: RegExp): Promise<void> {
    const before = leftovers();
    const config = bed.containerConfig(`bad${++count}`, SLEEP, { linux: options, ...change });
    const outcome: unknown = await bed.cri
      .runtime('createContainer', { podSandboxId: pod, config, sandboxConfig: podConfig })
      .catch((error: unknown) => error);
    expect(outcome, JSON.stringify(outcome)).to.be.instanceOf(Error);
    const { code: said, details } = outcome as ServiceError;
    expect(`${Code[said]}: ${details}`).to.equal(`${Code[code]}: ${details}`);
    expect(details).to.match(words);
    await eventually('nothing is left of what was refused', () => leftovers() === before, 60_000);
  }
  const leftovers = (): string => {
    const { root, state, snapshots } = bed.gantry;
    const dirs = [join(root, 'containers'), join(snapshots, 'active'), join(state, 'containers')];
    const found = (): string[] => [
      ...dirs.flatMap((dir) => readdirSync(dir).map((name) => `${dir}/${name}`)),
      ...mountsUnder(bed.gantry.dir),
    ];
    return JSON.stringify(ofPods(bed.gantry, found).sort());
  };
  const imageMount = (change: Mount = {}): Mount => ({
    containerPath: '/mnt/data',
    readonly: true,
    image: { image: DATA_IMAGE },
    ...change,
  });

  describe('image volumes', () => {
    it('show the image read-only, without set-uid and devices, and let its programs run', async () => {
      const before = leftovers();
      const id = await run(SLEEP, { mounts: [imageMount()] });
      expect(await sh(id, 'cat /mnt/data/model/weights /mnt/data/model/second; ls /mnt/data/model')).to.equal('one\ntwo\nsecond\nweights');
      expect(await sh(id, '/mnt/data/bin/tool')).to.equal('tool ran');
      expect(await sh(id, 'touch /mnt/data/x')).to.contain('Read-only file system');
      const [, flags = ''] = / \/mnt\/data \S+ (\S+) /.exec(await sh(id, 'cat /proc/mounts')) ?? [];
      expect(flags.split(',')).to.include.members(['ro', 'nosuid', 'nodev']).and.not.include('noexec');
      const { mounts } = await bed.status(id);
      const { image } = await bed.cri.image('imageStatus', { image: { image: DATA_IMAGE } });
      expect(mounts[0]?.image).to.include({ image: DATA_IMAGE, imageRef: image?.id });
      await remove(id);
      expect(leftovers()).to.equal(before);
    });

    it('show one directory of it, resolved inside the image', async () => {
      const sub = (imageSubPath: string): Mount => imageMount({ containerPath: `/mnt/${imageSubPath.replaceAll('/', '-')}`, imageSubPath });
      const id = await run(SLEEP, { mounts: [sub('model'), sub('deep/link'), sub('./deep//')] });
      expect(await sh(id, 'cat /mnt/model/weights /mnt/deep-link/second; readlink /mnt/.-deep--/link')).to.equal('one\ntwo\n/model');
      await remove(id);
    });

    it('refuse what leaves the image or is not there', async () => {
      const invalid = Code.INVALID_ARGUMENT;
      await refused({ mounts: [imageMount({ readonly: false })] }, invalid, /^config\.mounts\[0\]\.readonly:/);
      for (const imageSubPath of ['missing', 'model/weights', 'deep/escape', 'deep/host'])
        await refused(
          { mounts: [imageMount(), imageMount({ imageSubPath })] },
          invalid,
          /config\.mounts\[1\]\.image_sub_path: .*no directory/,
        );
      await refused(
        { mounts: [imageMount({ imageSubPath: '../etc' })] },
        invalid,
        /config\.mounts\[0\]\.image_sub_path: .*leaves the image/,
      );
      await refused(
        { mounts: [imageMount({ image: { image: 'images.test/absent:1' } })] },
        Code.NOT_FOUND,
        /config\.mounts\[0\]\.image\.image: .*absent/,
      );
      await refused({ mounts: [imageMount({ hostPath: '/tmp' })] }, invalid, /config\.mounts\[0\]\.host_path/);
    });

    it('outlive the removal of the image and a daemon that is killed', async () => {
      const id = await run(SLEEP, { mounts: [imageMount()] });
      await bed.cri.image('removeImage', { image: { image: DATA_IMAGE } });
      await bed.gantry.kill();
      await bed.gantry.start();
      expect(await sh(id, 'cat /mnt/data/model/weights')).to.equal('one');
      expect((await bed.status(id)).mounts[0]?.image?.imageRef).to.match(/^sha256:/);
      await remove(id);
      expect(mountsUnder(bed.gantry.dir).filter((path) => path.includes('image-volumes'))).to.deep.equal([]);
      expect(readdirSync(join(bed.gantry.snapshots, 'active'))).to.deep.equal([]);
      await bed.cri.image('pullImage', { image: { image: DATA_IMAGE } });
    });

    it('leave nothing of a create that a dead daemon began', async () => {
      const before = leftovers();
      const hook = { hookName: 'createRuntime', path: '/bin/sleep', args: ['sleep', '5'] };
      const devices = [{ name: 'hook', containerEdits: { hooks: [hook] } }];
      writeFileSync(join(cdiDir, 'slow.json'), JSON.stringify({ cdiVersion: '0.5.0', kind: 'gantry.test/slow', devices }));
      const config = bed.containerConfig('cut', SLEEP, {
        linux: options,
        mounts: [imageMount()],
        CDIDevices: [{ name: 'gantry.test/slow=hook' }],
      });
      void bed.cri.runtime('createContainer', { podSandboxId: pod, config, sandboxConfig: podConfig }).catch(() => undefined);
      await eventually('the view is mounted', () => mountsUnder(bed.gantry.dir).some((path) => path.includes('image-volumes')));
      await bed.gantry.kill();
      await bed.gantry.start();
      await eventually('it is undone', () => leftovers() === before, 60_000);
    });
  });

  describe('CDI devices (F18)', () => {
    const spec = (): object => ({
      cdiVersion: '0.7.0',
      kind: 'gantry.test/thing',
      containerEdits: {
        env: ['CDI_SPEC=once'],
        mounts: [{ hostPath: cdiDir, containerPath: '/mnt/cdi', options: ['ro', 'rbind', 'nosuid'] }],
      },
      devices: [
        {
          name: 'null',
          containerEdits: {
            env: ['CDI_NULL=1'],
            deviceNodes: [{ path: '/dev/cdi-null', hostPath: '/dev/null', permissions: 'rw' }],
            additionalGids: [4242],
          },
        },
        {
          name: 'hook',
          containerEdits: {
            hooks: [
              { hookName: 'createRuntime', path: '/bin/sh', args: ['sh', '-c', `env > ${join(cdiDir, 'hook-ran')}`], env: ['HOOK=yes'] },
            ],
          },
        },
        { name: 'gone', containerEdits: { deviceNodes: [{ path: '/dev/gantry-no-such-device' }] } },
      ],
    });
    const cdi = (name: string): ContainerConfig => ({ CDIDevices: [{ name: `gantry.test/thing=${name}` }] });

    it('is refused by its name while it is not there, and found without a restart when it is', async () => {
      await refused(cdi('null'), Code.INVALID_ARGUMENT, /^config\.CDI_devices\[0\]\.name: no CDI device "gantry\.test\/thing=null" in /);
      writeFileSync(join(cdiDir, 'thing.json'), JSON.stringify(spec()));
      const user = { securityContext: { ...options.securityContext, runAsUser: { value: '1000' } } };
      const id = await run(SLEEP, { ...cdi('null'), linux: user });
      expect(
        await sh(
          id,
          'echo $CDI_SPEC $CDI_NULL; stat -c "%F %t %T %u" /dev/cdi-null; echo x > /dev/cdi-null; id -G; ls /mnt/cdi/thing.json; touch /mnt/cdi/x',
        ),
      ).to.match(/^once 1\ncharacter special file 1 3 1000\n.*\b4242\b.*\n\/mnt\/cdi\/thing\.json\n.*Read-only file system/s);
      await remove(id);
    });

    it('runs its hooks with nothing but their own environment', async () => {
      const id = await run(SLEEP, { annotations: { 'cdi.k8s.io/plugin_1': 'gantry.test/thing=hook,gantry.test/thing=null' } });
      expect(await sh(id, 'echo $CDI_SPEC $CDI_NULL')).to.equal('once 1');
      expect(readFileSync(join(cdiDir, 'hook-ran'), 'utf8'))
        .to.match(/^HOOK=yes$/m)
        .and.not.match(/FROM=image|GANTRY/);
      await remove(id);
    });

    it('is refused when the host lacks its node, or the name is none', async () => {
      await refused(cdi('gone'), Code.INVALID_ARGUMENT, /CDI device node \/dev\/gantry-no-such-device: /);
      await refused(
        { CDIDevices: [{ name: '../etc/passwd' }] },
        Code.INVALID_ARGUMENT,
        /config\.CDI_devices\[0\]\.name: .* is not a CDI device name/,
      );
      await refused({ CDIDevices: [{ name: '' }] }, Code.INVALID_ARGUMENT, /config\.CDI_devices\[0\]\.name: must not be empty/);
      await refused({ annotations: { 'cdi.k8s.io/x': 'nonsense' } }, Code.INVALID_ARGUMENT, /config\.annotations\[cdi\.k8s\.io\/x\]: /);
      writeFileSync(join(cdiDir, 'broken.yaml'), 'cdiVersion: [');
      await refused(cdi('other'), Code.INVALID_ARGUMENT, /no CDI device .*1 broken: .*broken\.yaml/);
    });

    it("does not listen to the pod's annotations (S6)", async () => {
      const config = bed.podConfig('annotated', { annotations: { 'cdi.k8s.io/x': 'gantry.test/thing=null' }, linux: options });
      const podSandboxId = await bed.runPod(config);
      const id = await bed.runContainer(podSandboxId, config, bed.containerConfig('c', SLEEP, { linux: options }));
      expect(await sh(id, 'echo "[$CDI_NULL]"; ls /dev/cdi-null'))
        .to.contain('[]')
        .and.to.contain('No such file');
      await bed.cri.runtime('stopPodSandbox', { podSandboxId });
      await bed.cri.runtime('removePodSandbox', { podSandboxId });
    });
  });

  describe('AppArmor', () => {
    const hasAppArmor =
      existsSync('/sys/module/apparmor/parameters/enabled') &&
      readFileSync('/sys/module/apparmor/parameters/enabled', 'utf8').startsWith('Y');
    const asked = (apparmor: LinuxContainerSecurityContext['apparmor'], change: LinuxContainerSecurityContext = {}): ContainerConfig => ({
      linux: { securityContext: { ...options.securityContext, ...change, apparmor } },
    });
    const invalid = Code.INVALID_ARGUMENT;

    it('of a profile that the kernel lacks is refused by the field that names it', async () => {
      const words = hasAppArmor ? 'is not loaded' : 'AppArmor is not supported';
      const field = 'config\\.linux\\.security_context\\.apparmor';
      const localhost = { profileType: 'Localhost' as const, localhostRef: 'localhost/gantry-no-such-profile' };
      await refused(asked(localhost), invalid, new RegExp(`^${field}\\.localhost_ref: .*${words}`));
      const old = { ...options.securityContext, apparmorProfile: 'localhost/gantry-no-such-profile' };
      await refused({ linux: { securityContext: old } }, invalid, new RegExp(`^${field}_profile: .*${words}`));
      if (!hasAppArmor)
        await refused(asked({ profileType: 'RuntimeDefault' }), invalid, new RegExp(`^${field}\\.profile_type: .*${words}`));
    });

    it('confines to the default profile, and lets the host end what it confines', async function () {
      // Where the kernel has none (hack/vm has it) there is nothing to see.
      if (!hasAppArmor) this.skip();
      const id = await run(SLEEP, asked({ profileType: 'RuntimeDefault' }, { capabilities: { addCapabilities: ['SYS_ADMIN'] } }));
      expect(await sh(id, 'cat /proc/self/attr/current')).to.equal('gantry-default (enforce)');
      expect(await sh(id, 'mount -t tmpfs x /tmp')).to.match(/permission denied/i);
      expect(await sh(id, 'echo 1 > /proc/self/oom_score_adj; echo $?; kill -0 1; echo $?')).to.equal('0\n0');
      await bed.cri.runtime('stopContainer', { containerId: id, timeout: '20' });
      expect((await bed.status(id)).exitCode).to.equal(0);
      await remove(id);
      for (const [config, profile] of [
        [asked(null), 'gantry-default (enforce)'],
        [asked({ profileType: 'Unconfined' }), 'unconfined'],
      ] as const) {
        const other = await run(SLEEP, config);
        expect(await sh(other, 'cat /proc/self/attr/current')).to.equal(profile);
        await remove(other);
      }
    });
  });

  describe('SELinux', () => {
    const selinux = { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0:c4,c5' };
    const asking = (selinuxOptions: object): ContainerConfig => ({
      linux: { securityContext: { ...options.securityContext, selinuxOptions } },
    });

    const hasSelinux = existsSync('/sys/fs/selinux/enforce');

    it('has no effect where the kernel has none, whatever labels are asked for', async function () {
      if (hasSelinux) this.skip();
      const config = bed.podConfig('labelled', { linux: { securityContext: { ...options.securityContext, selinuxOptions: selinux } } });
      const labelled = await bed.runPod(config);
      const volume = join(cdiDir, 'volume');
      mkdirSync(volume);
      const mounts = [{ containerPath: '/vol', hostPath: volume, selinuxRelabel: true }, imageMount()];
      const id = await bed.runContainer(labelled, config, bed.containerConfig('labelled', SLEEP, { ...asking(selinux), mounts }));
      expect(await sh(id, 'touch /vol/file && cat /mnt/data/model/weights')).to.equal('one');
      const spec = readFileSync(join(bed.gantry.state, 'containers', id, 'config.json'), 'utf8');
      expect(spec).to.not.match(/selinux|mountLabel|container_t/);
      await bed.cri.runtime('removePodSandbox', { podSandboxId: labelled });
    });

    it('labels processes, their files, volumes and image volumes', async function () {
      if (!hasSelinux) this.skip();
      const volume = join(cdiDir, 'labelled-volume');
      mkdirSync(join(volume, 'below'), { recursive: true });
      const images = [DATA_IMAGE, VOLUMES_IMAGE].map((image, index) => imageMount({ containerPath: `/mnt/${index}`, image: { image } }));
      const mounts = [{ containerPath: '/vol', hostPath: volume, selinuxRelabel: true }, ...images];
      const [plain, asked, privileged] = [
        await run(SLEEP, {}),
        await run(SLEEP, { ...asking(selinux), mounts }),
        await run(SLEEP, { linux: { securityContext: { ...options.securityContext, privileged: true } } }),
      ];
      const processOf = async (id: string): Promise<string> => (await sh(id, 'cat /proc/self/attr/current')).replace('\0', '');
      expect(await processOf(plain)).to.match(/:system_r:container_t:s0:c\d+,c\d+$/);
      expect(await processOf(asked)).to.equal('system_u:system_r:container_t:s0:c4,c5');
      expect(await processOf(privileged)).to.match(/:system_r:spc_t:s0$/);
      const filesAre = 'context="?system_u:object_r:container_file_t:s0:c4,c5"?';
      for (const path of ['/', '/mnt/0', '/mnt/1'])
        expect(await sh(asked, 'cat /proc/mounts')).to.match(new RegExp(`^overlay ${path} overlay \\S*${filesAre}`, 'm'));
      expect(await sh(asked, 'cat /mnt/0/model/second /mnt/1/kept/file')).to.equal('two\nkept');
      const labels = execFileSync('stat', ['-c', '%C', volume, join(volume, 'below')], { encoding: 'utf8' });
      expect(labels).to.equal('system_u:object_r:container_file_t:s0:c4,c5\n'.repeat(2));
      const etc = [{ containerPath: '/vol', hostPath: '/etc', selinuxRelabel: true }];
      await refused({ mounts: etc }, Code.FAILED_PRECONDITION, /^config\.mounts\[0\]\.selinux_relabel: relabelling \/etc would/);
      for (const id of [plain, asked, privileged]) await remove(id);
    });

    it('is refused by the field whose text is no part of a label', async () => {
      const field = /^config\.linux\.security_context\.selinux_options\.level:/;
      await refused(asking({ ...selinux, level: 's0,c4,c5' }), Code.INVALID_ARGUMENT, field);
    });
  });

  describe('VOLUME paths of an image', () => {
    it('are directories of the container, made inside whatever the image links to (CVE-2022-23648)', async () => {
      const id = await run(SLEEP, {
        image: { image: VOLUMES_IMAGE },
        command: ['/mnt/bin/sh', '-c', SLEEP],
        mounts: [imageMount({ containerPath: '/mnt', image: { image: DEMO_IMAGE } })],
      });
      const inside = async (script: string): Promise<string> => {
        const { stdout, stderr } = await bed.cri.runtime('execSync', {
          containerId: id,
          cmd: ['/mnt/bin/sh', '-c', `PATH=/mnt/bin; ${script}`],
        });
        return `${stdout.toString()}${stderr.toString()}`.trim();
      };
      expect(await inside('stat -c "%F %a %u" /cache/deep; touch /cache/deep/x /kept/y; ls /kept')).to.equal('directory 755 0\nfile\ny');
      expect(await inside('ls -d /tmp/gantry-devices-escaped')).to.equal('/tmp/gantry-devices-escaped');
      expect(existsSync('/tmp/gantry-devices-escaped')).to.equal(false);
      expect(existsSync('/does')).to.equal(false);
      await remove(id);
    });
  });
});
