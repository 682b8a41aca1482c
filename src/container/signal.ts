import { constants } from 'node:os';

const NUMBERS: ReadonlyMap<string, number> = new Map(Object.entries(constants.signals));
const MAX_SIGNAL = 64;

/** `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; undefined for "" and whatever is no signal (an image's word is not trusted, S1). */
export function parseSignal(text: string): number | undefined {
  const name = text.toUpperCase();
  const number = /^\d{1,2}$/.test(name) ? Number(name) : (NUMBERS.get(name) ?? NUMBERS.get(`SIG${name}`) ?? realtime(name));
  return number !== undefined && number > 0 && number <= MAX_SIGNAL ? number : undefined;
}

const RTMIN = 34;
const RTMAX = 64;

// The CRI's enum writes SIGRTMINPLUS3 and SIGRTMAXMINUS2 where images write SIGRTMIN+3 and SIGRTMAX-2.
function realtime(name: string): number | undefined {
  const match = /^(?:SIG)?RT(?:MIN(?:(?:\+|PLUS)(\d{1,2}))?|MAX(?:(?:-|MINUS)(\d{1,2}))?)$/.exec(name);
  if (!match) return undefined;
  return name.includes('RTMIN') ? RTMIN + Number(match[1] ?? 0) : RTMAX - Number(match[2] ?? 0);
}
