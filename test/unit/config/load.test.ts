import { expect } from 'chai';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArguments } from '../../../src/cli/args.ts';
import { loadConfig } from '../../../src/config/load.ts';
import { HANDLER_SETTINGS, reference, SETTINGS } from '../../../src/config/schema.ts';

describe('config (F1)', () => {
  let dir: string;
  let path: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'gantry-config-'));
    path = join(dir, 'config.toml');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const load = (text: string, flags = new Map<string, unknown>()): ReturnType<typeof loadConfig> => {
    writeFileSync(path, text);
    return loadConfig({ path, flags });
  };

  it('has a default for everything, frozen', () => {
    const { config } = load('');
    expect(config).to.include({ root: '/var/lib/gantry', socket: '/run/gantry/gantry.sock', defaultHandler: 'runc' });
    expect(config.handlers.map(({ name }) => name)).to.deep.equal(['runc']);
    expect(Object.isFrozen(config.cni.binDirs)).to.equal(true);
  });

  it('merges drop-ins key by key in lexical order, flags last', () => {
    mkdirSync(join(dir, 'config.d'));
    writeFileSync(join(dir, 'config.d', '20.toml'), '[cni]\nconf_dir = "/twenty"\n');
    writeFileSync(join(dir, 'config.d', '10.toml'), '[cni]\nconf_dir = "/ten"\nbin_dirs = ["/ten-bin"]\n');
    const { config, said } = load('root = "/file"\nstate = "/file-state"\n', new Map([['root', '/flag']]));
    expect(config.root).to.equal('/flag');
    expect(config.state).to.equal('/file-state');
    expect(config.cni).to.deep.equal({ confDir: '/twenty', binDirs: ['/ten-bin'], statusGraceMs: 60_000 });
    expect(said.get('cni.conf_dir')?.origin).to.match(/20\.toml:2$/);
  });

  it('refuses every documented key when it is misspelt, with file, line and key', () => {
    for (const { key } of [...SETTINGS, ...HANDLER_SETTINGS.map((s) => ({ ...s, key: `handlers.x.${s.key}` }))]) {
      const parts = `${key}x`.split('.');
      const last = parts.pop();
      const text = `# a comment\n${parts.length > 0 ? `[${parts.join('.')}]\n` : ''}${last} = "x"\n`;
      expect(() => load(text), key).to.throw(`${path}:${parts.length > 0 ? 3 : 2}: unknown key "${key}x"`);
    }
  });

  it('refuses values of another type or outside the choice', () => {
    expect(() => load('root = 1')).to.throw(`${path}:1: root: must be a string`);
    expect(() => load('root = "relative"')).to.throw('root: "relative" is not an absolute path');
    expect(() => load('[image]\nmax_concurrent_downloads = "6"')).to.throw(
      `${path}:2: image.max_concurrent_downloads: must be a whole number`,
    );
    expect(() => load('[log]\nlevel = "loud"')).to.throw('log.level: must be one of trace, debug');
    expect(() => load('[cni]\nbin_dirs = "/x"')).to.throw('must be a list of strings');
    expect(() => load('default_handler = "kata"')).to.throw('no handler "kata" is configured');
    expect(() => load('root = ')).to.throw(`${path}:1: `);
    expect(() => loadConfig({ path: join(dir, 'none.toml') })).to.throw('no such file');
  });

  it('takes an IP address, a port and a certificate with its key for streams', () => {
    expect(load('').config.streaming).to.deep.equal({ address: '127.0.0.1', port: 0, tls: undefined });
    const { config } = load('[streaming]\naddress = "::1"\nport = 10250\ntls_cert = "/c.pem"\ntls_key = "/k.pem"\n');
    expect(config.streaming).to.deep.equal({ address: '::1', port: 10_250, tls: { certFile: '/c.pem', keyFile: '/k.pem' } });
    expect(() => load('[streaming]\naddress = "localhost"')).to.throw(`${path}:2: streaming.address: "localhost" is not an IP address`);
    expect(() => load('[streaming]\nport = 70000')).to.throw(`${path}:2: streaming.port: 70000 is not a port`);
    expect(() => load('[streaming]\ntls_key = "/k.pem"')).to.throw(`${path}:2: streaming.tls_cert and streaming.tls_key need each other`);
  });

  it('takes handlers from tables and flags', () => {
    const { flags } = parseArguments(['serve', '--handler', 'crun=/usr/bin/crun', '--default-handler', 'crun']);
    const { config } = load('[handlers.runsc]\nargs = ["--platform=ptrace"]\n', new Map(flags));
    expect(config.defaultHandler).to.equal('crun');
    expect(config.handlers.map(({ name, path: program, args }) => [name, program, args])).to.have.deep.members([
      ['runc', 'runc', []],
      ['crun', '/usr/bin/crun', []],
      ['runsc', 'runsc', ['--platform=ptrace']],
    ]);
  });

  it('is told in full by README', () => {
    const words = (text: string): string => text.replace(/ *\| */g, '|').replace(/-+/g, '-');
    const readme = words(readFileSync(join(import.meta.dirname, '../../../README.md'), 'utf8'));
    for (const line of reference().split('\n')) expect(readme).to.include(words(line));
  });

  it('refuses what the command line does not know', () => {
    expect(() => parseArguments(['serve', '--nope'])).to.throw('--nope');
    expect(() => parseArguments(['server'])).to.throw('unknown command "server"');
    expect(() => parseArguments(['config', 'chek'])).to.throw('check, dump, reference');
    expect(() => parseArguments(['serve', '--handler', 'crun'])).to.throw('name=path is expected');
    expect(parseArguments([]).command).to.equal('help');
    expect(reference()).to.contain('| `handlers.<name>.args` |');
  });
});
