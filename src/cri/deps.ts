import type { ContainerDeps } from '../container/deps.ts';
import type { Bus } from '../events/bus.ts';
import type { Images } from '../image/image.ts';
import type { ContainerEventResponse } from '../gen/cri/runtime/v1/ContainerEventResponse.ts';
import type { SandboxDeps } from '../sandbox/deps.ts';
import type { RuntimeStatusSource } from './view/status.ts';
import type { StatsSource } from './view/stats.ts';

/** What the rows of both services work with; wired by `daemon.ts`. */
export interface ServiceDeps {
  readonly sandboxes: SandboxDeps;
  readonly containers: ContainerDeps;
  readonly images: Images;
  readonly events: Bus<ContainerEventResponse>;
  readonly status: RuntimeStatusSource;
  readonly stats: StatsSource;
}
