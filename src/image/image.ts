import type { Digest } from '../base/digest.ts';
import type { Op } from '../base/op.ts';
import type { PullProgress } from './progress.ts';

/** One image: identity is the config digest (`sha256:...`), which is what the CRI calls image id / image_ref in ContainerStatus. */
export interface Image {
  readonly id: Digest;
  /** Sorted normalised `host/repo:tag` names. */
  readonly repoTags: readonly string[];
  /** Sorted `host/repo@sha256:...`. */
  readonly repoDigests: readonly string[];
  readonly sizeBytes: number;
  readonly pinned: boolean;
  /** chainId of the top layer; undefined for an image without layers. */
  readonly topLayer: Digest | undefined;
  readonly config: ImageConfig;
}

/** The OCI image config's `config` object, validated for type and size only: its values are hostile input (S1). */
export interface ImageConfig {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

export interface AuthConfig {
  readonly username: string;
  readonly password: string;
  /** base64 of user:password. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

export interface ImageFsUsage {
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** What cri/image-service and container/create need of images. Lookups are from memory and synchronous. */
export interface Images {
  /** By id (full or unique prefix, with or without sha256:), tag, or digest reference. */
  find(ref: string): Image | undefined;
  list(): readonly Image[];
  /** Single flight per reference; returns the image's id. */
  pull(op: Op, ref: string, auth: AuthConfig | undefined): Promise<Digest>;
  /** Removes the image and all its names (CRI RemoveImage), by whichever of them; failedPrecondition when it is pinned; missing is ok. */
  remove(op: Op, ref: string): Promise<void>;
  /** A container has let go of its layers: of an image that was removed meanwhile they are collected now. */
  released(): void;
  /** Pulls in flight, and those that ended within the last second. */
  pulls(): readonly PullProgress[];
  /** What blobs, layers and records take; neither what containers write nor what is coming or being deleted. */
  fsUsage(): Promise<ImageFsUsage>;
  /** Raw OCI config JSON, for verbose ImageStatus. */
  rawConfig(id: Digest): Promise<string>;
}
