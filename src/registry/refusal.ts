import { ClassifiedError } from '../base/errors.ts';
import type { Answer } from '../os/http-client.ts';

const MAX_ERROR_BYTES = 1024;

/** What a registry said against it, in its own words (OCI distribution-spec, error codes). */
export async function refusal(answer: Answer, what: string): Promise<ClassifiedError> {
  const { status } = answer;
  const text = (await answer.body(64 * 1024).catch(() => Buffer.alloc(0))).toString('utf8').slice(0, MAX_ERROR_BYTES);
  const words = wordsOf(text);
  const kind =
    status === 404
      ? 'notFound'
      : status === 401 || status === 403
        ? 'permissionDenied'
        : status === 400
          ? 'invalidArgument'
          : 'unavailable';
  return new ClassifiedError(kind, `${what}: ${status}${words === '' ? '' : ` ${words}`}`, {
    detail: { status, retryAfter: answer.headers['retry-after'] },
  });
}

function wordsOf(text: string): string {
  try {
    const { errors } = JSON.parse(text) as { errors?: Array<{ code?: string; message?: string }> };
    return (errors ?? []).map(({ code, message }) => [code, message].filter(Boolean).join(': ')).join('; ');
  } catch {
    return text.replace(/\s+/g, ' ').trim().slice(0, 200);
  }
}
