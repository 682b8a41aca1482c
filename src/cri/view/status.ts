import type { StatusResponse } from '../../gen/cri/runtime/v1/StatusResponse.ts';
import type { Network } from '../../network/attach.ts';
import type { HandlerFeatures } from '../../runtime/runtime.ts';

/** What Status reports from; all of it in memory. */
export interface RuntimeStatusSource {
  readonly network: Pick<Network, 'status'>;
  readonly handlers: ReadonlyArray<{ name: string; features: HandlerFeatures }>;
  readonly cgroupDriver: 'SYSTEMD' | 'CGROUPFS';
  /** For verbose: the configuration in force and what was found on this machine. */
  readonly info: Readonly<Record<string, unknown>>;
  /** Operations in flight with stage and age, by use case. */
  inFlight(): unknown;
  /** The pool of warm sandboxes. */
  warm(): unknown;
  /** Of GetContainerEvents: who listens, and what slow ones have lost. */
  readonly events: { readonly subscribers: number; readonly dropped: number };
}

/** CRI Status. The default handler is listed under its name and under "", as kubelet looks it up. */
export function statusView(source: RuntimeStatusSource, verbose: boolean): StatusResponse {
  const network = source.network.status();
  return {
    status: {
      conditions: [
        { type: 'RuntimeReady', status: true, reason: '', message: '' },
        { type: 'NetworkReady', status: network.ready, reason: network.reason, message: network.message },
      ],
    },
    info: verbose ? verboseInfo(source) : {},
    runtimeHandlers: source.handlers.map(({ name, features: { recursiveReadOnlyMounts, userNamespaces } }) => ({
      name,
      features: { recursiveReadOnlyMounts, userNamespaces },
    })),
    features: { supplementalGroupsPolicy: true },
  };
}

const verboseInfo = ({ info, inFlight, warm, events: { subscribers, dropped } }: RuntimeStatusSource): Record<string, string> => ({
  config: JSON.stringify(info),
  operations: JSON.stringify(inFlight()),
  warm: JSON.stringify(warm()),
  events: JSON.stringify({ subscribers, dropped }),
});
