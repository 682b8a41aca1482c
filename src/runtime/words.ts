const MAX_LENGTH = 1024;

const TEXT_LINE = /\blevel=(\w+)\b.*?\bmsg=("(?:[^"\\]|\\.)*"|\S+)/;
const TIMESTAMP = /^\d{4}-\d\d-\d\dT[\d:.]+Z: /;

interface Line {
  readonly level: string | undefined;
  readonly words: string;
}

function unquote(text: string): string {
  if (!text.startsWith('"')) return text;
  try {
    return String(JSON.parse(text));
  } catch {
    return text.slice(1, -1);
  }
}

function parseLine(line: string): Line {
  if (line.startsWith('{')) {
    try {
      const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
      if (typeof msg === 'string') return { level: typeof level === 'string' ? level : undefined, words: msg };
    } catch {
      return { level: undefined, words: line };
    }
  }
  const text = TEXT_LINE.exec(line);
  if (text?.[1] && text[2]) return { level: text[1], words: unquote(text[2]) };
  return { level: undefined, words: line.replace(TIMESTAMP, '') };
}

/**
 * What an OCI runtime wanted to say, out of its stderr or its `--log` file: JSON lines, `level=error msg="..."` lines or plain text.
 * Errors win over plain lines, those over warnings; repeated lines count once; '' when it said nothing.
 */
export function runtimeWords(output: string): string {
  const lines = output
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .map(parseLine);
  const severe = lines.filter(({ level }) => level === 'error' || level === 'fatal' || level === 'panic');
  const plain = lines.filter(({ level }) => level === undefined);
  const chosen = severe.length > 0 ? severe : plain.length > 0 ? plain : lines;
  const words = [...new Set(chosen.map(({ words: said }) => said))].join('; ');
  return words.length > MAX_LENGTH ? `...${words.slice(-MAX_LENGTH)}` : words;
}
