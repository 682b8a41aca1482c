/** A process's identity: pids are recycled, (pid, start time) is not. `startTime` is field 22 of /proc/PID/stat, clock ticks since boot. */
export interface ProcessRef {
  readonly pid: number;
  readonly startTime: string;
}
