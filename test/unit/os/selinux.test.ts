import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import type { Op } from '../../../src/base/op.ts';
import { newOp } from '../../../src/base/op.ts';
import { contextOption, freeLevel, parseContexts, relabel, selinuxDefaults, withOptions } from '../../../src/os/selinux.ts';

const CONTEXTS = `# of the container policy
process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:container_file_t:s0"
sandbox_kvm_process = "system_u:system_r:svirt_qemu_net_t:s0"
`;
const LABELS = { process: 'system_u:system_r:container_t:s0', mount: 'system_u:object_r:container_file_t:s0' };
const AS_THEY_ARE = { user: '', role: '', type: '', level: '' };

/** Neither the kernel nor chcon of this machine need to know SELinux: both have a stand-in. */
describe('os/selinux', () => {
  let dir = '';
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-test-selinux-'))));
  afterEach(() => rmSync(dir, { recursive: true }));

  describe('the labels of the policy', () => {
    const defaults = (files: Record<string, string>): ReturnType<typeof selinuxDefaults> => {
      for (const [name, text] of Object.entries(files)) {
        mkdirSync(join(dir, name, '..'), { recursive: true });
        writeFileSync(join(dir, name), text);
      }
      return selinuxDefaults({ etc: join(dir, 'etc'), fs: join(dir, 'fs') });
    };

    it('are those of the policy that is in force', async () => {
      const files = {
        'fs/enforce': '0',
        'fs/context': '',
        'etc/config': '# SELINUXTYPE= mls\nSELINUX=permissive\nSELINUXTYPE=mine\n',
        'etc/targeted/contexts/lxc_contexts': CONTEXTS.replaceAll('system_u', 'other_u'),
      };
      expect(await defaults({ ...files, 'etc/mine/contexts/lxc_contexts': CONTEXTS })).to.deep.equal(LABELS);
    });

    it('are those of targeted where no policy is named', async () => {
      expect(await defaults({ 'fs/enforce': '1', 'fs/context': '', 'etc/targeted/contexts/lxc_contexts': CONTEXTS })).to.deep.equal(LABELS);
      expect(readFileSync(join(dir, 'fs/context'), 'utf8'), 'the kernel was asked').to.contain(`${LABELS.mount}\0`);
    });

    it('are none where the kernel does not take them: the file names types that the policy lacks', async () => {
      mkdirSync(join(dir, 'fs'));
      symlinkSync('/dev/full', join(dir, 'fs/context'));
      expect(await defaults({ 'fs/enforce': '1', 'etc/targeted/contexts/lxc_contexts': CONTEXTS })).to.equal(undefined);
    });

    it('are none where the kernel has no SELinux, or the policy no containers', async () => {
      expect(await defaults({ 'etc/targeted/contexts/lxc_contexts': CONTEXTS })).to.equal(undefined);
      rmSync(join(dir, 'etc'), { recursive: true });
      expect(await defaults({ 'fs/enforce': '1', 'fs/context': '' })).to.equal(undefined);
      expect(parseContexts('process = "a:b:c:s0"\n# file = "a:b:c:s0"\n')).to.equal(undefined);
    });
  });

  it('changes the parts that are named; of files user and level only', () => {
    expect(withOptions(LABELS, AS_THEY_ARE)).to.deep.equal(LABELS);
    expect(withOptions(LABELS, { user: 'u', role: 'r', type: 't', level: 's0:c1,c2' })).to.deep.equal({
      process: 'u:r:t:s0:c1,c2',
      mount: 'u:object_r:container_file_t:s0:c1,c2',
    });
    const ranged = { process: 'u:r:t:s0-s0:c0.c1023', mount: 'u:r:f:s0:c1,c2' };
    expect(withOptions(ranged, { ...AS_THEY_ARE, type: 'x' })).to.deep.equal({ ...ranged, process: 'u:r:x:s0-s0:c0.c1023' });
  });

  it('finds a pair of two different categories that nobody has', () => {
    const used = new Set<string>();
    for (let i = 0; i < 3000; i++) {
      const level = freeLevel(used);
      const [, a, b] = /^s0:c(\d+),c(\d+)$/.exec(level) ?? [];
      expect(Number(a)).to.be.lessThan(Number(b));
      expect(Number(b)).to.be.lessThan(1024);
      expect(used.has(level)).to.equal(false);
      used.add(level);
    }
  });

  it('quotes a label for mount(2): its comma parts categories, not options', () => {
    expect(contextOption('u:r:t:s0:c1,c2')).to.equal('context="u:r:t:s0:c1,c2"');
  });

  describe('relabel', () => {
    const op = (): Op => newOp('test', { timeoutMs: 20_000 });
    const label = 'u:r:t:s0:c1,c2';
    const path = process.env['PATH'];
    afterEach(() => (process.env['PATH'] = path));

    /** `script` in place of chcon, which is told each call's arguments; $1 of the second call is --no-dereference, $2 --recursive. */
    const chcon = (script: string): void => {
      const bin = join(dir, 'chcon');
      writeFileSync(bin, `#!/bin/sh\necho "$*" >>${dir}/calls\n${script}\n`);
      chmodSync(bin, 0o755);
      process.env['PATH'] = `${dir}:${path}`;
    };
    const calls = (): string[] => readFileSync(join(dir, 'calls'), 'utf8').trim().split('\n');
    const refusal = async (target: string): Promise<string> => {
      const error: unknown = await relabel(op(), target, label).catch((thrown: unknown) => thrown);
      expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'failedPrecondition');
      return (error as Error).message;
    };
    const top = `--no-dereference -- ${label} /vol`;
    const below = `--no-dereference --recursive -P -- ${label} /vol`;

    it('labels the directory, then what is below it, and follows no symlink', async () => {
      chcon('exit 0');
      await relabel(op(), '/vol', label);
      expect(calls()).to.deep.equal([top, below]);
    });

    it('leaves a filesystem without labels as it is', async () => {
      chcon(`echo "chcon: failed to change context of '/vol' to '${label}': Operation not supported" >&2; exit 1`);
      await relabel(op(), '/vol', label);
      expect(calls()).to.deep.equal([top]);
    });

    const complaints = (...words: string[]): string =>
      ['[ "$2" != --recursive ] && exit 0', ...words.map((word) => `echo "chcon: cannot access '/vol/x': ${word}" >&2`), 'exit 1'].join(
        '\n',
      );

    it('does not mind what vanished meanwhile, nor a mount below that has no labels', async () => {
      chcon(complaints('No such file or directory', 'Operation not supported'));
      await relabel(op(), '/vol', label);
      expect(calls()).to.deep.equal([top, below]);
    });

    it('fails with what chcon says of anything else', async () => {
      chcon(complaints('Operation not supported', 'Read-only file system'));
      expect(await refusal('/vol')).to.contain("'/vol/x': Read-only file system");
      chcon('echo "chcon: cannot access: No such file or directory" >&2; exit 1');
      expect(await refusal('/vol')).to.contain('No such file or directory');
      chcon('exit 1');
      await refusal('/vol');
    });

    it('never takes a directory of the host from it (CVE-2021-43816)', async () => {
      chcon('exit 0');
      for (const target of ['/', '/etc', '/usr', '/var/lib', '/home'])
        expect(await refusal(target)).to.equal(`relabelling ${target} would take it from the host`);
      expect(calls).to.throw('ENOENT');
    });
  });
});
