import { expect } from 'chai';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { Op } from '../../../src/base/op.ts';
import { newOp } from '../../../src/base/op.ts';
import { AppArmor } from '../../../src/container/apparmor.ts';
import { appArmorChoice, DEFAULT_PROFILE_TEXT } from '../../../src/container/oci-spec/apparmor.ts';

const choice = (apparmor: object | null, apparmorProfile = '', privileged = false): ReturnType<typeof appArmorChoice> =>
  appArmorChoice({ apparmor, apparmorProfile, privileged } as never);

describe('container/apparmor', () => {
  let dir = '';
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'gantry-apparmor-'))));
  afterEach(() => rmSync(dir, { recursive: true }));

  const op = (): Op => newOp('test', { timeoutMs: 20_000 });
  const on = (script: string, profiles = 'docker-default (enforce)\nwith space (complain)\n'): AppArmor => {
    const parser = join(dir, 'parser');
    writeFileSync(parser, `#!/bin/sh\n${script}\n`);
    chmodSync(parser, 0o755);
    writeFileSync(join(dir, 'profiles'), profiles);
    return new AppArmor({ enabled: true, log: silentLogger, profiles: join(dir, 'profiles'), parser });
  };
  const off = new AppArmor({ enabled: false, log: silentLogger });
  const refusal = async (work: Promise<unknown>): Promise<string> => {
    const error: unknown = await work.then(
      (value) => `answered ${String(value)}`,
      (thrown: unknown) => thrown,
    );
    expect(error).to.be.instanceOf(ClassifiedError);
    return `${(error as ClassifiedError).kind}: ${(error as Error).message}`;
  };

  it('reads the profile field, then the deprecated name', () => {
    const field = 'config.linux.security_context.apparmor';
    expect(appArmorChoice(null)).to.deep.equal({ kind: 'unset' });
    expect(choice(null)).to.deep.equal({ kind: 'unset' });
    expect(choice(null, '', true)).to.deep.equal({ kind: 'unconfined' });
    expect(choice({ profileType: 'RuntimeDefault', localhostRef: '' }, 'unconfined', true)).to.deep.equal({
      kind: 'default',
      field: `${field}.profile_type`,
    });
    expect(choice({ profileType: 'Unconfined', localhostRef: '' }, 'runtime/default')).to.deep.equal({ kind: 'unconfined' });
    expect(choice({ profileType: 'Localhost', localhostRef: 'localhost/mine' })).to.deep.equal({
      kind: 'localhost',
      field: `${field}.localhost_ref`,
      profile: 'mine',
    });
    expect(choice(null, 'localhost/mine')).to.deep.equal({ kind: 'localhost', field: `${field}_profile`, profile: 'mine' });
    expect(choice(null, 'runtime/default')).to.deep.equal({ kind: 'default', field: `${field}_profile` });
    expect(choice(null, 'unconfined')).to.deep.equal({ kind: 'unconfined' });
    expect(() => choice(null, 'mine')).to.throw(`${field}_profile: "mine" is not unconfined`);
    for (const localhostRef of ['localhost/', 'a\nexec unconfined', 'a\0b'])
      expect(() => choice({ profileType: 'Localhost', localhostRef })).to.throw(`${field}.localhost_ref:`);
  });

  it('refuses a profile that is asked for where the kernel has no AppArmor', async () => {
    expect(await off.profileFor(op(), choice(null))).to.equal(undefined);
    expect(await off.profileFor(op(), choice({ profileType: 'Unconfined', localhostRef: '' }))).to.equal(undefined);
    expect(await refusal(off.profileFor(op(), choice({ profileType: 'RuntimeDefault', localhostRef: '' })))).to.equal(
      'invalidArgument: config.linux.security_context.apparmor.profile_type: AppArmor is not supported: the kernel of this machine has none',
    );
    expect(await refusal(off.profileFor(op(), choice(null, 'localhost/x')))).to.contain('config.linux.security_context.apparmor_profile: ');
  });

  it('loads its own profile once, for all that come at the same time', async () => {
    const apparmor = on(`echo "$@" >> ${join(dir, 'calls')}; cat > ${join(dir, 'text')}; sleep 0.2`);
    const asked = [choice(null), choice(null, 'runtime/default'), choice({ profileType: 'RuntimeDefault', localhostRef: '' })];
    expect(await Promise.all(asked.map((each) => apparmor.profileFor(op(), each)))).to.deep.equal([
      'gantry-default',
      'gantry-default',
      'gantry-default',
    ]);
    await apparmor.profileFor(op(), choice(null));
    expect(readFileSync(join(dir, 'calls'), 'utf8')).to.equal('--skip-cache --replace\n');
    expect(readFileSync(join(dir, 'text'), 'utf8')).to.equal(DEFAULT_PROFILE_TEXT);
  });

  it('does without it where nobody insists, and tries again', async () => {
    const apparmor = on(`[ -e ${join(dir, 'works')} ] || { echo "no such feature" >&2; exit 1; }`);
    expect(await apparmor.profileFor(op(), choice(null))).to.equal(undefined);
    expect(await refusal(apparmor.profileFor(op(), choice(null, 'runtime/default')))).to.equal(
      'failedPrecondition: config.linux.security_context.apparmor_profile: load AppArmor profile gantry-default: no such feature',
    );
    writeFileSync(join(dir, 'works'), '');
    expect(await apparmor.profileFor(op(), choice(null))).to.equal('gantry-default');
    const without = new AppArmor({ enabled: true, log: silentLogger, parser: join(dir, 'absent') });
    expect(await without.profileFor(op(), choice(null))).to.equal(undefined);
  });

  it('takes a loaded profile of the host and names one that is not', async () => {
    const apparmor = on(`touch ${join(dir, 'called')}`);
    expect(await apparmor.profileFor(op(), choice(null, 'localhost/docker-default'))).to.equal('docker-default');
    expect(await apparmor.profileFor(op(), choice(null, 'localhost/with space'))).to.equal('with space');
    for (const name of ['docker', 'docker-default (enforce)'])
      expect(await refusal(apparmor.profileFor(op(), choice(null, `localhost/${name}`)))).to.contain(
        `invalidArgument: config.linux.security_context.apparmor_profile: AppArmor profile ${JSON.stringify(name)} is not loaded`,
      );
    expect(await apparmor.profileFor(op(), choice(null, 'unconfined'))).to.equal('unconfined');
    expect(existsSync(join(dir, 'called'))).to.equal(false);
  });
});
