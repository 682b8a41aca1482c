/** One spec as ginkgo's JUnit report has it. */
export interface Spec {
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'skipped';
  readonly message: string;
}

/** Benchmarks that did not run are no specs that were skipped. Throws when the report has no spec at all. */
export function specsOf(xml: string): Spec[] {
  const specs = [...xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)].flatMap(
    ([, attributes = '', body = '']): Spec[] => {
      const name = decoded(attribute(attributes, 'name'));
      if (!name.startsWith('[It] ')) return [];
      const said = attribute(attributes, 'status');
      const status = said === 'passed' ? 'passed' : said === 'skipped' || said === 'pending' ? 'skipped' : 'failed';
      if (status === 'skipped' && name.includes('benchmark about')) return [];
      return [
        {
          name: name.slice('[It] '.length),
          status,
          message: decoded(attribute(/<(?:failure|error|skipped) ([^>]*)>/.exec(body)?.[1] ?? '', 'message')),
        },
      ];
    },
  );
  if (specs.length === 0) throw new Error('the JUnit report holds no specs');
  return specs;
}

/** Of two runs of the same specs: what the first one skipped is as in the second. A failure stays one. */
export function together(first: readonly Spec[], second: readonly Spec[]): Spec[] {
  const ran = new Map(second.filter(({ status }) => status !== 'skipped').map((spec) => [spec.name, spec]));
  return first.map((spec) => {
    const other = ran.get(spec.name);
    return other && (spec.status === 'skipped' || other.status === 'failed') ? other : spec;
  });
}

/** `N passed, N failed, N skipped` */
export function countsOf(specs: readonly Spec[]): { passed: number; failed: number; skipped: number } {
  const count = (status: Spec['status']): number => specs.filter((spec) => spec.status === status).length;
  return { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
}

const attribute = (attributes: string, name: string): string => new RegExp(`(?:^|\\s)${name}="([^"]*)"`).exec(attributes)?.[1] ?? '';

const decoded = (text: string): string =>
  text
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replace(/&#x([0-9A-Fa-f]+);/g, (_, code: string) => String.fromCodePoint(Number.parseInt(code, 16)))
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&apos;', "'")
    .replaceAll('&amp;', '&');
