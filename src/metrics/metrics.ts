import type { AddressInfo } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { createServer } from '../base/node-http.ts';

/** One finished call, as `cri/unary` saw it. */
export interface CallSeen {
  readonly rpc: string;
  /** `ok`, or the kind of the error. */
  readonly result: string;
  readonly durationMs: number;
  readonly stages: ReadonlyArray<{ readonly stage: string; readonly durationMs: number }>;
}

/** What is looked at when somebody asks; each answer comes from memory. */
export interface MetricsSources {
  /** Operations at work, the undo of one included. */
  inFlight(): ReadonlyArray<{ readonly ageMs: number; readonly stage: string }>;
  /** States of pod sandboxes, one entry for each. */
  podStates(): readonly string[];
  containerStates(): readonly string[];
  /** Warm sandboxes; `taken` and `missed` count pods. */
  warm(): { readonly ready: number; readonly unsettled: number; readonly taken: number; readonly missed: number };
  pulls(): ReadonlyArray<{ readonly state: string }>;
  /** Events that subscribers lost because they did not read. */
  droppedEvents(): number;
}

/** Seconds: from an answer out of memory to a pull. */
const CALL_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const NS_PER_S = 1e9;
/** Of the timer that event loop delay is measured with. */
const LOOP_RESOLUTION_MS = 10;

/** Prometheus metrics (F13). Labels are RPCs, kinds of errors, stages and states: their number is fixed by this code, never by what runs. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #calls: Histogram<'rpc' | 'result'>;
  readonly #stages: Histogram<'rpc' | 'stage'>;

  constructor(sources: MetricsSources) {
    const registers = [this.#registry];
    this.#calls = new Histogram({
      ...{ name: 'gantry_cri_call_seconds', help: 'CRI calls by RPC and result.', labelNames: ['rpc', 'result'] as const, registers },
      buckets: CALL_BUCKETS,
    });
    this.#stages = new Histogram({
      ...{
        name: 'gantry_cri_stage_seconds',
        help: 'Stages of CRI calls that have some.',
        labelNames: ['rpc', 'stage'] as const,
        registers,
      },
      buckets: CALL_BUCKETS,
    });
    gauge(registers, 'gantry_operations_in_flight', 'Operations at work, by stage.', ['stage'], () =>
      countBy(sources.inFlight(), ({ stage }) => stage),
    );
    gauge(registers, 'gantry_operation_oldest_seconds', 'Age of the oldest operation at work; 0 without one.', [], () => [
      ['', Math.max(0, ...sources.inFlight().map(({ ageMs }) => ageMs)) / 1000],
    ]);
    gauge(registers, 'gantry_pod_sandboxes', 'Pod sandboxes by state.', ['state'], () => countBy(sources.podStates(), String));
    gauge(registers, 'gantry_containers', 'Containers by state.', ['state'], () => countBy(sources.containerStates(), String));
    gauge(registers, 'gantry_image_pulls', 'Image pulls in flight by state.', ['state'], () =>
      countBy(sources.pulls(), ({ state }) => state),
    );
    gauge(registers, 'gantry_warm_sandboxes', 'Sandboxes that no pod has yet: ready, or being prepared or given back.', ['state'], () => {
      const { ready, unsettled } = sources.warm();
      return Object.entries({ ready, unsettled });
    });
    new Counter({
      ...{ name: 'gantry_warm_requests_total', help: 'Pods that a warm sandbox could serve, by whether one was ready.', registers },
      labelNames: ['result'],
      collect() {
        const { taken, missed } = sources.warm();
        this.reset();
        this.inc({ result: 'taken' }, taken);
        this.inc({ result: 'missed' }, missed);
      },
    });
    new Counter({
      ...{ name: 'gantry_events_dropped_total', help: 'Events that were not read by their subscriber, which was ended.', registers },
      collect() {
        this.reset();
        this.inc(sources.droppedEvents());
      },
    });
    this.#process(registers);
  }

  #process(registers: Registry[]): void {
    const delay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
    delay.enable();
    gauge(
      registers,
      'gantry_event_loop_delay_seconds',
      'Delay of the event loop since the last time this was asked for.',
      ['quantile'],
      () => {
        // Node measures from one tick of its timer to the next: what is longer than asked for is delay.
        const delayOf = (ns: number): number => Math.max(0, ns / NS_PER_S - LOOP_RESOLUTION_MS / 1000);
        const values: Array<[string, number]> = [
          ['0.5', delayOf(delay.percentile(50))],
          ['0.99', delayOf(delay.percentile(99))],
          ['1', delayOf(delay.max)],
        ];
        delay.reset();
        return values;
      },
    );
    gauge(registers, 'process_resident_memory_bytes', 'Resident memory of the daemon.', [], () => [['', process.memoryUsage.rss()]]);
    new Counter({
      ...{ name: 'process_cpu_seconds_total', help: 'CPU of the daemon, user and system.', registers },
      collect() {
        const { user, system } = process.cpuUsage();
        this.reset();
        this.inc((user + system) / 1e6);
      },
    });
  }

  observe({ rpc, result, durationMs, stages }: CallSeen): void {
    this.#calls.observe({ rpc, result }, durationMs / 1000);
    for (const { stage, durationMs: ms } of stages) this.#stages.observe({ rpc, stage }, ms / 1000);
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** Serves `/metrics` over plain HTTP until the result is disposed of. Fails when the address is taken. */
  async serve(address: string, port: number): Promise<AsyncDisposable & { readonly port: number }> {
    const server = createServer((request, response) => {
      if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') return void response.writeHead(404).end();
      this.text().then(
        (text) => response.writeHead(200, { 'content-type': this.#registry.contentType }).end(text),
        () => response.writeHead(500).end(),
      );
    });
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve));
    return {
      port: (server.address() as AddressInfo).port,
      async [Symbol.asyncDispose]() {
        server.closeAllConnections();
        await new Promise<void>((resolve) => server.close(() => resolve()));
      },
    };
  }
}

const countBy = <T>(all: readonly T[], key: (each: T) => string): Array<[string, number]> => {
  const counts = new Map<string, number>();
  for (const each of all) counts.set(key(each), (counts.get(key(each)) ?? 0) + 1);
  return [...counts];
};

/** A gauge whose values are looked up when they are asked for; `values` are by the one label. */
function gauge(
  registers: Registry[],
  name: string,
  help: string,
  labelNames: readonly string[],
  values: () => Array<[string, number]>,
): void {
  new Gauge({
    ...{ name, help, labelNames, registers },
    collect() {
      this.reset();
      const [label] = labelNames;
      for (const [key, value] of values()) this.set(label === undefined ? {} : { [label]: key }, value);
    },
  });
}
