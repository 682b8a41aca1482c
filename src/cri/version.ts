import { readFileSync } from 'node:fs';

/** As `crictl version` shows them. */
export const RUNTIME_NAME = 'gantry';

const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
export const RUNTIME_VERSION = manifest.version;
