import { isIP } from 'node:net';
import { ClassifiedError, invalidArgument, messageOf } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { Attachment, PodNetworkRequest } from './attach.ts';
import type { Conflist, PluginConfig } from './conflist.ts';
import { isAtLeast } from './conflist.ts';
import type { Command } from './invoke.ts';
import { invoke, isMissing } from './invoke.ts';

export const IF_NAME = 'eth0';

/** What kubelet's plugins look for in CNI_ARGS; a value can't contain what separates them (S7). */
function cniArgs({ pod, sandboxId }: PodNetworkRequest): string {
  const values = {
    IgnoreUnknown: '1',
    K8S_POD_NAMESPACE: pod.namespace,
    K8S_POD_NAME: pod.name,
    K8S_POD_INFRA_CONTAINER_ID: sandboxId,
    K8S_POD_UID: pod.uid,
  };
  return Object.entries(values)
    .map(([key, value]) => {
      if (/[;=\0\n]/.test(value)) throw invalidArgument('config.metadata', `${JSON.stringify(value)} can not be passed to CNI plugins`);
      return `${key}=${value}`;
    })
    .join(';');
}

/** Only what a plugin says it can do, and only what the pod asks for (CNI conventions, capabilities). */
function runtimeConfig(plugin: PluginConfig, request: PodNetworkRequest): Record<string, unknown> {
  const { dns, bandwidth, cgroupPath } = request;
  const ports = request.portMappings.filter(({ hostPort }) => hostPort > 0);
  // The plugin counts bursts in 32 bits.
  const burst = (rate: number): number => Math.min(rate, 0xffff_ffff);
  const offered: Record<string, unknown> = {
    ...(ports.length > 0 ? { portMappings: ports } : {}),
    ...(bandwidth === undefined
      ? {}
      : {
          bandwidth: {
            ...(bandwidth.ingressRate > 0 ? { ingressRate: bandwidth.ingressRate, ingressBurst: burst(bandwidth.ingressRate) } : {}),
            ...(bandwidth.egressRate > 0 ? { egressRate: bandwidth.egressRate, egressBurst: burst(bandwidth.egressRate) } : {}),
          },
        }),
    ...(dns.servers.length + dns.searches.length + dns.options.length > 0 ? { dns } : {}),
    ...(cgroupPath === '' ? {} : { cgroupPath }),
  };
  return Object.fromEntries(Object.entries(offered).filter(([name]) => plugin.capabilities?.[name] === true));
}

// portmap takes the iptables lock several times even when there is nothing to map (R27).
function isNeeded(plugin: PluginConfig, request: PodNetworkRequest): boolean {
  return plugin.type !== 'portmap' || request.portMappings.some(({ hostPort }) => hostPort > 0);
}

export interface Chain {
  readonly conflist: Conflist;
  readonly binDirs: readonly string[];
}

function call(
  op: Op,
  chain: Chain,
  plugin: PluginConfig,
  what: { command: Command; request: PodNetworkRequest; prevResult: unknown },
): Promise<unknown> {
  const { conflist, binDirs } = chain;
  const { request, command, prevResult } = what;
  const { capabilities: _capabilities, ...own } = plugin;
  const runtime = runtimeConfig(plugin, request);
  return invoke(op, {
    command,
    type: plugin.type,
    binDirs,
    inBackground: request.inBackground === true,
    parameters: { CNI_CONTAINERID: request.sandboxId, CNI_NETNS: request.netnsPath, CNI_IFNAME: IF_NAME, CNI_ARGS: cniArgs(request) },
    config: {
      ...own,
      cniVersion: conflist.cniVersion,
      name: conflist.name,
      ...(Object.keys(runtime).length > 0 ? { runtimeConfig: runtime } : {}),
      ...(prevResult === undefined ? {} : { prevResult }),
    },
  });
}

/** ADD through the list, each plugin with the result of the one before. The caller DELs what a failure leaves. */
export async function addChain(op: Op, chain: Chain, request: PodNetworkRequest): Promise<Attachment> {
  let result: unknown;
  for (const plugin of chain.conflist.plugins) {
    if (isNeeded(plugin, request)) result = await call(op, chain, plugin, { command: 'ADD', request, prevResult: result });
  }
  const addresses = addressesOf(result);
  // The kubelet can do nothing with such a pod, and would say less about it.
  if (addresses.ips.length === 0)
    throw new ClassifiedError('internal', `cni network "${chain.conflist.name}" add: its result has no address for ${IF_NAME}`);
  return { network: chain.conflist.name, ifName: IF_NAME, ...addresses, conflist: chain.conflist, result };
}

/**
 * DEL from the last plugin to the first, all of them whatever one says; the error names those that failed. Without a result ADD did not finish, and a plugin
 * that is not installed has nothing to undo: a pod that could not start for want of it can be removed.
 */
export async function delChain(op: Op, chain: Chain, request: PodNetworkRequest, result: unknown): Promise<void> {
  const failures: unknown[] = [];
  // Results are passed to DEL from 0.4.0 on.
  const prevResult = isAtLeast(chain.conflist.cniVersion, '0.4.0') ? result : undefined;
  for (const plugin of [...chain.conflist.plugins].reverse()) {
    if (!isNeeded(plugin, request)) continue;
    try {
      await call(op, chain, plugin, { command: 'DEL', request, prevResult });
    } catch (error) {
      if (result === undefined && isMissing(error)) op.log.warn({ err: messageOf(error) }, 'a plugin is passed over');
      else failures.push(error);
    }
  }
  const [first] = failures;
  if (first !== undefined) throw new ClassifiedError('internal', failures.map(messageOf).join('; '), { cause: first });
}

export async function checkChain(op: Op, chain: Chain, request: PodNetworkRequest, result: unknown): Promise<void> {
  if (chain.conflist.disableCheck || !isAtLeast(chain.conflist.cniVersion, '0.4.0')) return;
  for (const plugin of chain.conflist.plugins)
    if (isNeeded(plugin, request)) await call(op, chain, plugin, { command: 'CHECK', request, prevResult: result });
}

/** Addresses of the pod's own interface (those of plugins that tell no interface count too), IPv4 as it comes. */
export function addressesOf(result: unknown): { ips: readonly string[]; mac: string | undefined } {
  const { ips = [], interfaces = [] } = (result ?? {}) as { ips?: unknown; interfaces?: unknown };
  const links = Array.isArray(interfaces) ? (interfaces as Array<{ name?: unknown; mac?: unknown; sandbox?: unknown }>) : [];
  const isPods = (index: unknown): boolean => typeof index !== 'number' || (links[index]?.sandbox ?? '') !== '';
  const addresses = (Array.isArray(ips) ? (ips as Array<{ address?: unknown; interface?: unknown }>) : [])
    .filter((each) => isPods(each.interface))
    .map(({ address }) => String(address).split('/')[0] ?? '')
    .filter((address) => isIP(address) !== 0);
  const mac = links.find(({ name, sandbox }) => name === IF_NAME && (sandbox ?? '') !== '')?.mac;
  return { ips: addresses, mac: typeof mac === 'string' ? mac : undefined };
}
