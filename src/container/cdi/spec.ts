import type { CdiDeviceNode, CdiEdits, CdiHook, CdiMount, CdiNetDevice } from '../oci-spec/cdi-edits.ts';
import { HOOK_NAMES, NO_EDITS } from '../oci-spec/cdi-edits.ts';
import type { OciIntelRdt } from '../oci-spec/spec-types.ts';

/** One CDI spec file, checked. */
export interface CdiSpec {
  /** `vendor.com/class`; a device's full name is `<kind>=<name>`. */
  readonly kind: string;
  /** Made once if any of the devices is asked for. */
  readonly edits: CdiEdits;
  readonly devices: ReadonlyMap<string, CdiEdits>;
}

/** Released versions of the CDI spec, oldest first. */
const VERSIONS: readonly string[] = ['0.1.0', '0.2.0', '0.3.0', '0.4.0', '0.5.0', '0.6.0', '0.7.0', '0.8.0', '1.0.0', '1.1.0'];

const PART = '[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?';
const NAME = '[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?';
const KIND = new RegExp(`^${PART}/${PART}$`);
const DEVICE = new RegExp(`^${NAME}$`);
const QUALIFIED = new RegExp(`^(${PART}/${PART})=(${NAME})$`);

/** `vendor.com/class=name` in its two parts; undefined when it isn't one. */
export function parseDeviceName(text: string): { kind: string; device: string } | undefined {
  const [, kind, device] = QUALIFIED.exec(text) ?? [];
  return kind === undefined || device === undefined ? undefined : { kind, device };
}

/**
 * A file's content as a spec. As the CDI spec demands: no field that is not known, and none that is newer than the version the file names.
 * Throws an Error that begins with the field.
 */
export function parseCdiSpec(content: unknown): CdiSpec {
  const spec = new Fields(content, '');
  const version = spec.text('cdiVersion').replace(/^v/, '');
  if (!VERSIONS.includes(version))
    throw new Error(`cdiVersion: ${JSON.stringify(version)} is not a version that is known (${VERSIONS.at(-1)} is the last)`);
  const needs = new Needs(version);
  const kind = spec.text('kind');
  if (!KIND.test(kind)) throw new Error(`kind: ${JSON.stringify(kind)} is not vendor/class`);
  if (kind.split('/')[1]?.includes('.')) needs.atLeast('0.6.0', 'kind: a dot in the class');
  annotations(spec, needs);
  const edits = spec.has('containerEdits') ? editsOf(spec.child('containerEdits'), needs) : NO_EDITS;
  const devices = new Map<string, CdiEdits>();
  for (const device of spec.children('devices')) {
    const name = device.text('name');
    if (!DEVICE.test(name)) throw new Error(`${device.at('name')}: ${JSON.stringify(name)} is not a device name`);
    if (/^\d/.test(name)) needs.atLeast('0.5.0', `${device.at('name')}: a digit first`);
    if (devices.has(name)) throw new Error(`${device.at('name')}: ${JSON.stringify(name)} is there twice`);
    annotations(device, needs);
    devices.set(name, editsOf(device.child('containerEdits'), needs));
    device.done();
  }
  if (devices.size === 0) throw new Error('devices: must not be empty');
  spec.done();
  return { kind, edits, devices };
}

function annotations(from: Fields, needs: Needs): void {
  if (!from.has('annotations')) return;
  if (Object.keys(from.child('annotations').all()).length > 0) needs.atLeast('0.6.0', from.at('annotations'));
}

function editsOf(from: Fields, needs: Needs): CdiEdits {
  const additionalGids = from.numbers('additionalGids');
  if (additionalGids.length > 0) needs.atLeast('0.7.0', from.at('additionalGids'));
  const netDevices = from.children('netDevices').map(netDeviceOf);
  if (netDevices.length > 0) needs.atLeast('1.1.0', from.at('netDevices'));
  const intelRdt = from.has('intelRdt') ? intelRdtOf(from.child('intelRdt'), needs) : undefined;
  const edits: CdiEdits = {
    env: environment(from, 'env') ?? [],
    deviceNodes: from.children('deviceNodes').map((node) => deviceNodeOf(node, needs)),
    netDevices,
    mounts: from.children('mounts').map((mount) => mountOf(mount, needs)),
    hooks: from.children('hooks').map(hookOf),
    ...(intelRdt === undefined ? {} : { intelRdt }),
    additionalGids,
  };
  from.done();
  return edits;
}

function environment(from: Fields, key: string): readonly string[] | undefined {
  if (!from.has(key)) return undefined;
  const entries = from.texts(key);
  for (const entry of entries) if (entry.indexOf('=') <= 0) throw new Error(`${from.at(key)}: ${JSON.stringify(entry)} is not NAME=value`);
  return entries;
}

function deviceNodeOf(from: Fields, needs: Needs): CdiDeviceNode {
  if (from.has('hostPath')) needs.atLeast('0.5.0', from.at('hostPath'));
  const type = from.optional('type', (key) => from.text(key));
  if (type !== undefined && !/^[bcup]?$/.test(type)) throw new Error(`${from.at('type')}: ${JSON.stringify(type)} is not b, c, u or p`);
  const permissions = from.optional('permissions', (key) => from.text(key));
  if (permissions !== undefined && permissions !== 'none' && !/^[rwm]*$/.test(permissions))
    throw new Error(`${from.at('permissions')}: ${JSON.stringify(permissions)} is not of r, w and m`);
  const node = {
    path: absolute(from, 'path'),
    ...given({
      hostPath: from.optional('hostPath', (key) => absolute(from, key)),
      type: type === '' ? undefined : (type as CdiDeviceNode['type']),
      permissions,
      ...Object.fromEntries(
        ['major', 'minor', 'fileMode', 'uid', 'gid'].map((name) => [name, from.optional(name, (key) => from.number(key))]),
      ),
    }),
  };
  from.done();
  return node;
}

function mountOf(from: Fields, needs: Needs): CdiMount {
  const type = from.optional('type', (key) => from.text(key));
  if (type !== undefined && type !== '') needs.atLeast('0.4.0', from.at('type'));
  const mount = {
    // A host path that is none: the source of a filesystem of its own (`tmpfs`).
    hostPath: nonEmpty(from, 'hostPath'),
    containerPath: absolute(from, 'containerPath'),
    ...given({ type, options: from.optional('options', (key) => from.texts(key)) }),
  };
  from.done();
  return mount;
}

function hookOf(from: Fields): CdiHook {
  const hookName = HOOK_NAMES.find((name) => name === from.text('hookName'));
  if (hookName === undefined) throw new Error(`${from.at('hookName')}: is not one of ${HOOK_NAMES.join(', ')}`);
  const timeout = from.optional('timeout', (key) => from.number(key));
  if (timeout === 0) throw new Error(`${from.at('timeout')}: must be greater than zero`);
  const hook = {
    hookName,
    path: absolute(from, 'path'),
    ...given({ args: from.optional('args', (key) => from.texts(key)), env: environment(from, 'env'), timeout }),
  };
  from.done();
  return hook;
}

function netDeviceOf(from: Fields): CdiNetDevice {
  const device = { hostInterfaceName: nonEmpty(from, 'hostInterfaceName'), name: nonEmpty(from, 'name') };
  from.done();
  return device;
}

function intelRdtOf(from: Fields, needs: Needs): OciIntelRdt {
  needs.atLeast('0.7.0', from.at(''));
  for (const key of ['schemata', 'enableMonitoring']) if (from.has(key)) needs.atLeast('1.1.0', from.at(key));
  const closID = from.optional('closID', (key) => from.text(key));
  if (closID !== undefined && closID !== '/' && (closID === '.' || closID === '..' || closID.length >= 4096 || /[/\n]/.test(closID)))
    throw new Error(`${from.at('closID')}: ${JSON.stringify(closID.slice(0, 100))} can't be the name of a directory`);
  const rdt: OciIntelRdt = given({
    closID,
    l3CacheSchema: from.optional('l3CacheSchema', (key) => from.text(key)),
    memBwSchema: from.optional('memBwSchema', (key) => from.text(key)),
    schemata: from.optional('schemata', (key) => from.texts(key)),
    // Two of them went with 1.1.0.
    enableCMT: from.optional('enableCMT', (key) => from.flag(key)),
    enableMBM: from.optional('enableMBM', (key) => from.flag(key)),
    enableMonitoring: from.optional('enableMonitoring', (key) => from.flag(key)),
  });
  from.done();
  return rdt;
}

function nonEmpty(from: Fields, key: string): string {
  const text = from.text(key);
  if (text === '') throw new Error(`${from.at(key)}: must not be empty`);
  return text;
}

function absolute(from: Fields, key: string): string {
  const path = from.text(key);
  if (!path.startsWith('/')) throw new Error(`${from.at(key)}: ${JSON.stringify(path)} is not an absolute path`);
  return path;
}

const given = <T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;

/** What the version that a file names allows. */
class Needs {
  readonly #version: string;

  constructor(version: string) {
    this.#version = version;
  }

  atLeast(version: string, field: string): void {
    if (VERSIONS.indexOf(this.#version) < VERSIONS.indexOf(version))
      throw new Error(`${field}: needs cdiVersion ${version}, the file has ${this.#version}`);
  }
}

/** An object of the file, field by field; `done` refuses those that nobody asked for. */
class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #path: string;
  readonly #seen = new Set<string>();

  constructor(value: unknown, path: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Date)
      throw new Error(`${path || 'the file'}: is not an object`);
    this.#object = value as Record<string, unknown>;
    this.#path = path;
  }

  at(key: string): string {
    return [this.#path, key].filter(Boolean).join('.');
  }

  /** null counts as absent, as Go's readers have it. */
  has(key: string): boolean {
    this.#seen.add(key);
    return Object.hasOwn(this.#object, key) && this.#object[key] !== null && this.#object[key] !== undefined;
  }

  optional<T>(key: string, read: (key: string) => T): T | undefined {
    return this.has(key) ? read(key) : undefined;
  }

  text(key: string): string {
    const value = this.has(key) ? this.#object[key] : undefined;
    // YAML reads an unquoted 0 as a number; a device may be called that.
    if (typeof value === 'number' && key === 'name') return String(value);
    if (typeof value !== 'string') throw new Error(`${this.at(key)}: ${value === undefined ? 'is required' : 'is not a string'}`);
    if (value.includes('\0')) throw new Error(`${this.at(key)}: contains a NUL byte`);
    return value;
  }

  number(key: string): number {
    const value = this.has(key) ? this.#object[key] : undefined;
    if (!isId(value)) throw new Error(`${this.at(key)}: is not a number from 0 to 4294967295`);
    return value;
  }

  flag(key: string): boolean {
    const value = this.has(key) ? this.#object[key] : undefined;
    if (typeof value !== 'boolean') throw new Error(`${this.at(key)}: is not true or false`);
    return value;
  }

  texts(key: string): string[] {
    return this.#list(key).map((value, index) => {
      if (typeof value !== 'string' || value.includes('\0')) throw new Error(`${this.at(key)}[${index}]: is not a string`);
      return value;
    });
  }

  numbers(key: string): number[] {
    return this.#list(key).map((value, index) => {
      if (!isId(value)) throw new Error(`${this.at(key)}[${index}]: is not a number from 0 to 4294967295`);
      return value;
    });
  }

  child(key: string): Fields {
    if (!this.has(key)) throw new Error(`${this.at(key)}: is required`);
    return new Fields(this.#object[key], this.at(key));
  }

  children(key: string): Fields[] {
    return this.#list(key).map((value, index) => new Fields(value, `${this.at(key)}[${index}]`));
  }

  all(): Readonly<Record<string, unknown>> {
    return this.#object;
  }

  #list(key: string): readonly unknown[] {
    if (!this.has(key)) return [];
    const value = this.#object[key];
    if (!Array.isArray(value)) throw new Error(`${this.at(key)}: is not a list`);
    return value;
  }

  done(): void {
    const unknown = Object.keys(this.#object).find((key) => !this.#seen.has(key));
    if (unknown !== undefined) throw new Error(`${this.at(unknown)}: is not a field that is known`);
  }
}

const isId = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;
