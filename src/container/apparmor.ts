import { readFile } from 'node:fs/promises';
import { ClassifiedError, invalidArgument, messageOf, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Op } from '../base/op.ts';
import { within } from '../base/op.ts';
import { SingleFlight } from '../base/single-flight.ts';
import { run } from '../os/spawn.ts';
import type { AppArmorChoice } from './oci-spec/apparmor.ts';
import { DEFAULT_PROFILE, DEFAULT_PROFILE_TEXT } from './oci-spec/apparmor.ts';

const LOAD_TIMEOUT_MS = 30_000;

/** The kernel's profiles: which are loaded, and ours. */
export class AppArmor {
  readonly #enabled: boolean;
  readonly #log: Logger;
  readonly #profiles: string;
  readonly #parser: string;
  readonly #loading = new SingleFlight<void>();
  #isLoaded = false;
  #hasComplained = false;

  /** `profiles` is the kernel's list, `parser` a path or a name on PATH. */
  constructor(options: { enabled: boolean; log: Logger; profiles?: string; parser?: string }) {
    this.#enabled = options.enabled;
    this.#log = options.log;
    this.#profiles = options.profiles ?? '/sys/kernel/security/apparmor/profiles';
    this.#parser = options.parser ?? 'apparmor_parser';
  }

  /**
   * The profile that a container starts under; undefined where the kernel has no AppArmor, or no parser could load ours and nobody insists. invalidArgument names
   * the field that asks for a profile which the kernel does not have, failedPrecondition for ours when it can't be loaded.
   */
  async profileFor(op: Op, choice: AppArmorChoice): Promise<string | undefined> {
    if (choice.kind === 'unconfined') return this.#enabled ? 'unconfined' : undefined;
    if (!this.#enabled) {
      if (choice.kind === 'unset') return undefined;
      // As the peers do: whoever asks to be confined must not run without it.
      throw invalidArgument(choice.field, 'AppArmor is not supported: the kernel of this machine has none');
    }
    if (choice.kind === 'localhost') {
      if (await this.#has(choice.profile)) return choice.profile;
      throw invalidArgument(choice.field, `AppArmor profile ${JSON.stringify(choice.profile)} is not loaded`);
    }
    try {
      await this.#loading.run(DEFAULT_PROFILE, () => this.#load(op));
      return DEFAULT_PROFILE;
    } catch (error) {
      if (choice.kind === 'default') throw wrap(choice.field, error);
      if (!this.#hasComplained) this.#log.warn({ err: messageOf(error) }, 'containers run without an AppArmor profile');
      this.#hasComplained = true;
      return undefined;
    }
  }

  // Once per daemon, loaded or not: an older version may have loaded another text.
  async #load(op: Op): Promise<void> {
    if (this.#isLoaded) return;
    const { exitCode, stderr } = await run(within(op, LOAD_TIMEOUT_MS), {
      argv: [this.#parser, '--skip-cache', '--replace'],
      input: DEFAULT_PROFILE_TEXT,
    });
    if (exitCode !== 0) {
      throw new ClassifiedError(
        'failedPrecondition',
        `load AppArmor profile ${DEFAULT_PROFILE}: ${stderr.toString('utf8').trim().slice(-500)}`,
      );
    }
    this.#isLoaded = true;
  }

  /** Lines of the kernel's list are `name (mode)`. A list that can't be read proves nothing: then the runtime will tell. */
  async #has(profile: string): Promise<boolean> {
    const list = await readFile(this.#profiles, 'utf8').catch(() => undefined);
    return list === undefined || list.split('\n').some((line) => line.replace(/ \([a-z]+\)$/, '') === profile);
  }
}
