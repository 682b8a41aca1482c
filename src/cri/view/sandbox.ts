import type { PodSandbox } from '../../gen/cri/runtime/v1/PodSandbox.ts';
import type { PodSandboxStatus } from '../../gen/cri/runtime/v1/PodSandboxStatus.ts';
import { isReady } from '../../sandbox/list.ts';
import type { PodSandboxRecord } from '../../sandbox/record.ts';

/** Record -> CRI PodSandbox, the short form of lists. */
export function podSandboxView(record: PodSandboxRecord): PodSandbox {
  const { config } = record;
  return {
    id: record.id,
    metadata: config.metadata,
    state: isReady(record) ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY',
    createdAt: record.createdAtNs,
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: record.runtimeHandler,
  };
}

/** Record -> CRI PodSandboxStatus. A sandbox that is not ready has given its addresses back. */
export function podSandboxStatusView(record: PodSandboxRecord): PodSandboxStatus {
  const [ip = '', ...additional] = isReady(record) ? (record.attachment?.ips ?? []) : [];
  const options = record.config.linux?.securityContext?.namespaceOptions;
  return {
    ...podSandboxView(record),
    network: { ip, additionalIps: additional.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: options ?? { network: 'POD', pid: 'POD', ipc: 'POD' } } },
  };
}
