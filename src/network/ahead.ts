import type { Conflist, PluginConfig } from './conflist.ts';

/** Those that make the interface, with addresses of host-local, and those that may come after them. None looks at the pod's names. */
const FIRST: readonly string[] = ['bridge', 'ptp'];
const CHAINED: readonly string[] = ['loopback', 'firewall', 'tuning', 'portmap', 'bandwidth'];
/** A pod that asks for none of them gets from these plugins what any other pod gets. */
const CAPABILITIES: readonly string[] = ['portMappings', 'bandwidth'];

/** Whether its ADD gives any two pods the same but for the address, as long as they ask for no host ports and no bandwidth (DESIGN 3.10). */
export function allowsAhead({ plugins: [first, ...chained] }: Conflist): boolean {
  if (first === undefined || !FIRST.includes(first.type) || ipamType(first) !== 'host-local') return false;
  return chained.every(({ type }) => CHAINED.includes(type)) && [first, ...chained].every(declaresNoMore);
}

const ipamType = (plugin: PluginConfig): unknown => (plugin['ipam'] as { type?: unknown } | undefined)?.type;

const declaresNoMore = ({ capabilities = {} }: PluginConfig): boolean =>
  Object.entries(capabilities).every(([name, isDeclared]) => !isDeclared || CAPABILITIES.includes(name));
