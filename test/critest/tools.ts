import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { findProgram } from '../../hack/images/programs.ts';

const MODULE = 'sigs.k8s.io/cri-tools';
/** The NRI specs came after v1.36.0: any version from there on runs what Gantry has. */
const VERSION = process.env['CRI_TOOLS_VERSION'] ?? 'v1.36.0';

export interface Tools {
  readonly critest: string;
  readonly crictl: string;
}

/** From CRITEST and CRICTL, from .out/bin, from PATH; else built from the Go module into .out/bin. Fails saying what to install. */
export async function findTools(outDir: string): Promise<Tools> {
  const binDir = join(outDir, 'bin');
  const find = (name: string): string | undefined => {
    const said = process.env[name.toUpperCase()];
    if (said !== undefined && said !== '') {
      if (!existsSync(said)) throw new Error(`${name.toUpperCase()}=${said}: there is no such file`);
      return said;
    }
    return existsSync(join(binDir, name)) ? join(binDir, name) : findProgram(name);
  };
  const lacking = ['critest', 'crictl'].filter((name) => find(name) === undefined);
  if (lacking.length > 0) await build(binDir, lacking);
  return { critest: find('critest') ?? '', crictl: find('crictl') ?? '' };
}

async function build(binDir: string, names: readonly string[]): Promise<void> {
  const go = findProgram('go') ?? (existsSync('/usr/local/go/bin/go') ? '/usr/local/go/bin/go' : undefined);
  if (go === undefined) {
    throw new Error(
      `${names.join(' and ')} not found, and no Go to build them: put them on PATH, name them in CRITEST and CRICTL, or install Go`,
    );
  }
  console.log(`building ${names.join(' and ')} from ${MODULE} ${VERSION} (some minutes)`);
  const dir = join(binDir, '..', 'cri-tools');
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  mkdirSync(binDir, { recursive: true });
  writeFileSync(join(dir, 'go.mod'), 'module gantry/cri-tools\n\ngo 1.24\n');
  writeFileSync(join(dir, 'tools.go'), `package tools\n\nimport (\n\t_ "${MODULE}/pkg/benchmark"\n\t_ "${MODULE}/pkg/validate"\n)\n`);
  const options = {
    cwd: dir,
    env: { GOFLAGS: '-mod=mod', GOWORK: 'off', CGO_ENABLED: '0' },
    stdio: ['ignore', 'inherit', 'inherit'] as ['ignore', 'inherit', 'inherit'],
  };
  try {
    await execa(go, ['get', `${MODULE}@${VERSION}`], options);
    await execa(go, ['get', '-t', `${MODULE}/cmd/critest`, `${MODULE}/cmd/crictl`], options);
    if (names.includes('crictl')) await execa(go, ['build', '-o', join(binDir, 'crictl'), `${MODULE}/cmd/crictl`], options);
    if (names.includes('critest')) await execa(go, ['test', '-c', '-o', join(binDir, 'critest'), `${MODULE}/cmd/critest`], options);
  } catch (error) {
    throw new Error(
      `building ${names.join(' and ')} from ${MODULE} ${VERSION} failed: ${error instanceof Error ? error.message : String(error)}`,
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
