import { expect } from 'chai';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClassifiedError } from '../../../../src/base/errors.ts';
import { makeFifo } from '../../../../src/os/syscalls.ts';
import { CdiRegistry } from '../../../../src/container/cdi/registry.ts';

describe('container/cdi/registry (F18)', () => {
  let dir = '';
  let etc = '';
  let run = '';
  let registry: CdiRegistry;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-cdi-'));
    etc = join(dir, 'etc');
    run = join(dir, 'run');
    mkdirSync(etc);
    registry = new CdiRegistry([etc, run]);
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const spec = (value: string, names: readonly string[] = ['one']): object => ({
    cdiVersion: '0.5.0',
    kind: 'vendor.com/gpu',
    containerEdits: { env: [`SPEC=${value}`] },
    devices: names.map((name) => ({ name, containerEdits: { env: [`${name.toUpperCase()}=${value}`] } })),
  });
  const write = (path: string, content: object | string): void => {
    writeFileSync(`${path}.tmp`, typeof content === 'string' ? content : JSON.stringify(content));
    renameSync(`${path}.tmp`, path);
  };
  const env = async (...names: string[]): Promise<readonly string[]> =>
    (await registry.editsOf(names.map((name, index) => ({ name, field: `config.CDI_devices[${index}].name` })))).env;
  const refusal = async (name: string): Promise<string> => {
    const error: unknown = await env(name).catch((thrown: unknown) => thrown);
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'invalidArgument');
    return (error as Error).message;
  };

  it('reads nothing when nothing is asked for', async () => {
    write(join(etc, 'broken.json'), '{');
    expect(await env()).to.deep.equal([]);
  });

  it("makes a spec's own edits once, before those of its first device", async () => {
    write(join(etc, 'a.json'), spec('1', ['one', 'two']));
    expect(await env('vendor.com/gpu=two', 'vendor.com/gpu=one')).to.deep.equal(['SPEC=1', 'TWO=1', 'ONE=1']);
  });

  it('sees files and directories that come, change and go', async () => {
    expect(await refusal('vendor.com/gpu=one')).to.equal(
      `config.CDI_devices[0].name: no CDI device "vendor.com/gpu=one" in ${etc}, ${run}`,
    );
    mkdirSync(run);
    write(join(run, 'a.json'), spec('1'));
    expect(await env('vendor.com/gpu=one')).to.deep.equal(['SPEC=1', 'ONE=1']);
    write(join(run, 'a.json'), spec('2'));
    expect(await env('vendor.com/gpu=one')).to.deep.equal(['SPEC=2', 'ONE=2']);
    rmSync(join(run, 'a.json'));
    expect(await refusal('vendor.com/gpu=one')).to.contain('no CDI device');
  });

  it('lets the later directory win, and refuses two files of one directory', async () => {
    mkdirSync(run);
    write(join(etc, 'a.json'), spec('etc'));
    write(join(run, 'b.json'), spec('run'));
    expect(await env('vendor.com/gpu=one')).to.deep.equal(['SPEC=run', 'ONE=run']);
    write(join(run, 'c.json'), spec('other', ['one', 'three']));
    expect(await refusal('vendor.com/gpu=one')).to.equal(
      `config.CDI_devices[0].name: CDI device "vendor.com/gpu=one" is in ${join(run, 'b.json')} and ${join(run, 'c.json')}: only one may define it`,
    );
    expect(await env('vendor.com/gpu=three')).to.deep.equal(['SPEC=other', 'THREE=other']);
  });

  it('reads YAML with octal modes, anchors and unquoted names', async () => {
    write(
      join(etc, 'a.yaml'),
      'cdiVersion: 0.5.0\nkind: vendor.com/gpu\ndevices:\n  - name: 0\n    containerEdits: &edits\n      deviceNodes:\n        - {path: /dev/x, fileMode: 0660}\n  - name: "1"\n    containerEdits: *edits\n',
    );
    const { deviceNodes } = await registry.editsOf([{ name: 'vendor.com/gpu=1', field: 'x' }]);
    expect(deviceNodes).to.deep.equal([{ path: '/dev/x', fileMode: 0o660 }]);
  });

  it('works beside broken files and names them when a device is missing', async () => {
    write(join(etc, 'a.json'), spec('1'));
    write(join(etc, 'bad.json'), '{"cdiVersion": ');
    write(join(etc, 'bad.yaml'), 'a: [\n');
    write(
      join(etc, 'bomb.yaml'),
      `a: &a [x,x,x,x,x,x,x,x,x,x]\n${'bcdefghi'
        .split('')
        .map(
          (name, i) =>
            `${name}: &${name} [${Array<string>(10)
              .fill(`*${'abcdefgh'[i] ?? ''}`)
              .join(',')}]\n`,
        )
        .join('')}`,
    );
    write(join(etc, 'unknown.json'), { ...spec('1'), extra: 1 });
    write(join(etc, 'huge.json'), ' '.repeat(5 * 1024 * 1024));
    write(join(etc, 'ignored.txt'), 'x');
    symlinkSync('/nowhere', join(etc, 'dangling.json'));
    mkdirSync(join(etc, 'dir.json'));
    makeFifo(join(etc, 'fifo.json'), 0o600);
    expect(await env('vendor.com/gpu=one')).to.deep.equal(['SPEC=1', 'ONE=1']);
    const words = await refusal('vendor.com/gpu=two');
    expect(words)
      .to.contain('7 broken')
      .and.to.contain(`${join(etc, 'bad.json')}: `)
      .and.to.contain(`${join(etc, 'dir.json')}: is not a regular file`);
  });

  it('refuses what is no name of a device', async () => {
    for (const name of ['gpu', 'vendor.com/gpu', '/etc/passwd', 'vendor.com/gpu=../x', ''])
      expect(await refusal(name), name).to.contain('is not a CDI device name');
  });
});
