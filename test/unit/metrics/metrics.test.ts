import { expect } from 'chai';
import { Metrics } from '../../../src/metrics/metrics.ts';

describe('metrics', () => {
  let pods = ['ready', 'ready', 'notReady'];
  const metrics = new Metrics({
    inFlight: () => [
      { stage: 'network', ageMs: 1500 },
      { stage: 'network', ageMs: 20 },
    ],
    podStates: () => pods,
    containerStates: () => [],
    pulls: () => [{ state: 'pulling' }],
    warm: () => ({ ready: 5, unsettled: 1, taken: 40, missed: 2 }),
    droppedEvents: () => 3,
  });

  it('count calls by RPC and result, and their stages', async () => {
    metrics.observe({ rpc: 'RunPodSandbox', result: 'ok', durationMs: 30, stages: [{ stage: 'network', durationMs: 28 }] });
    metrics.observe({ rpc: 'RunPodSandbox', result: 'deadlineExceeded', durationMs: 4000, stages: [] });
    const text = await metrics.text();
    expect(text).to.include('gantry_cri_call_seconds_count{rpc="RunPodSandbox",result="ok"} 1');
    expect(text).to.include('gantry_cri_call_seconds_sum{rpc="RunPodSandbox",result="deadlineExceeded"} 4');
    expect(text).to.include('gantry_cri_stage_seconds_bucket{le="0.05",rpc="RunPodSandbox",stage="network"} 1');
  });

  it('look at what there is, and forget what is gone', async () => {
    const text = await metrics.text();
    expect(text).to.include('gantry_operations_in_flight{stage="network"} 2');
    expect(text).to.include('gantry_operation_oldest_seconds 1.5');
    expect(text).to.include('gantry_pod_sandboxes{state="ready"} 2');
    expect(text).to.include('gantry_pod_sandboxes{state="notReady"} 1');
    expect(text).to.include('gantry_image_pulls{state="pulling"} 1');
    expect(text).to.include('gantry_warm_sandboxes{state="ready"} 5');
    expect(text).to.include('gantry_warm_sandboxes{state="unsettled"} 1');
    expect(text).to.include('gantry_warm_requests_total{result="taken"} 40');
    expect(text).to.include('gantry_warm_requests_total{result="missed"} 2');
    expect(text).to.include('gantry_events_dropped_total 3');
    expect(text).to.match(/^process_resident_memory_bytes \d{7,}$/m);
    expect(text).to.match(/^process_cpu_seconds_total [\d.]+$/m);
    expect(text).to.match(/^gantry_event_loop_delay_seconds\{quantile="0.99"\} /m);
    pods = ['ready'];
    expect(await metrics.text()).to.not.include('notReady');
  });

  it('an event loop that is in time has no delay', async () => {
    await metrics.text();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const median = /^gantry_event_loop_delay_seconds\{quantile="0.5"\} (\S+)$/m.exec(await metrics.text())?.[1];
    // Node's own figure has the 10 ms between two looks in it.
    expect(Number(median)).to.be.within(0, 0.0099);
  });

  it('are served to GET /metrics and nobody else', async () => {
    await using server = await metrics.serve('127.0.0.1', 0);
    const url = `http://127.0.0.1:${server.port}`;
    const answer = await fetch(`${url}/metrics`);
    expect(answer.headers.get('content-type')).to.match(/^text\/plain; version=0.0.4/);
    expect(await answer.text()).to.include('gantry_pod_sandboxes');
    expect((await fetch(url)).status).to.equal(404);
    expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).to.equal(404);
  });
});
