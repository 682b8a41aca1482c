import { pino } from 'pino';
import type { Logger } from 'pino';

export type { Logger } from 'pino';
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error';
export type LogFormat = 'json' | 'text';

/** The daemon's logger: one line per event on stderr, JSON or `level message key=value`. Secrets never reach it. */
export function createLogger(level: LogLevel, format: LogFormat): Logger {
  if (format === 'json') return pino({ level, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ dest: 2, sync: true }));
  const labels = pino.levels.labels;
  const write = (line: string): void => {
    const { level: number, time, msg, pid: _pid, hostname: _hostname, ...rest } = JSON.parse(line) as Record<string, unknown>;
    const fields = Object.entries(rest).map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
    process.stderr.write(`${String(time)} ${(labels[Number(number)] ?? '').padEnd(5)} ${String(msg ?? '')}${fields.join('')}\n`);
  };
  return pino({ level, timestamp: pino.stdTimeFunctions.isoTime }, { write });
}

export const silentLogger: Logger = pino({ level: 'silent' });
