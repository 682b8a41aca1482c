import type { ContainerDeps } from '../container/deps.ts';
import type { Bus } from '../events/bus.ts';
import type { Images } from '../image/image.ts';
import type { AttachRequest } from '../gen/cri/runtime/v1/AttachRequest.ts';
import type { ContainerEventResponse } from '../gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { ExecRequest } from '../gen/cri/runtime/v1/ExecRequest.ts';
import type { PortForwardRequest } from '../gen/cri/runtime/v1/PortForwardRequest.ts';
import type { SandboxDeps } from '../sandbox/deps.ts';
import type { RuntimeStatusSource } from './view/status.ts';
import type { StatsSource } from './view/stats.ts';

/** Where a client goes for its streams: each URL works once, and not for long. */
export interface StreamUrls {
  execUrl(request: ExecRequest): string;
  attachUrl(request: AttachRequest): string;
  portForwardUrl(request: PortForwardRequest): string;
}

/** What the rows of both services work with; wired by `daemon.ts`. */
export interface ServiceDeps {
  readonly sandboxes: SandboxDeps;
  readonly containers: ContainerDeps;
  readonly images: Images;
  readonly events: Bus<ContainerEventResponse>;
  readonly status: RuntimeStatusSource;
  readonly stats: StatsSource;
  readonly streams: StreamUrls;
}
