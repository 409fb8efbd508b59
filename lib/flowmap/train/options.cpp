#include "flowmap/train/options.h"

#include "flowmap/base/error.h"

namespace flowmap {

int64_t read_duration(const Config& trainer) {
  return trainer.count("duration", 2, 200'000'000);
}

TrainOptions read_train_options(const Config& config) {
  const Config trainer = config.child("trainer");
  TrainOptions options;
  options.duration = read_duration(trainer);
  FM_CHECK_USAGE(options.duration > 0, trainer.where("duration"),
                 ": trainer.duration must be at least one image");
  options.batch = trainer.integer("batch", 512, 1, 1 << 24);
  options.batch_gpu = trainer.integer("batch_gpu", 0, 0, 1 << 24);
  if (options.batch_gpu == 0) options.batch_gpu = options.batch;
  FM_CHECK_USAGE(options.batch % options.batch_gpu == 0, trainer.where("batch_gpu"),
                 ": trainer.batch_gpu = ", options.batch_gpu,
                 " does not divide trainer.batch = ", options.batch);
  options.tick = trainer.count("tick", 1, 50'000);
  FM_CHECK_USAGE(options.tick > 0, trainer.where("tick"),
                 ": trainer.tick must be at least one image");
  options.snap = trainer.integer("snap", 50, 0, 1 << 30);
  options.dump = trainer.integer("dump", 500, 0, 1 << 30);
  options.keep = trainer.integer("keep", 2, 0, 1 << 30);
  options.seed = static_cast<uint64_t>(trainer.integer("seed", 0, 0));
  options.xflip = trainer.boolean("xflip", false);
  options.augment = trainer.number("augment", 0, 0, 1);
  options.clip = trainer.number("clip", 0, 0, 1e12);
  options.max_bad_steps = trainer.integer("max_bad_steps", 100, 1);
  options.threads = static_cast<int>(trainer.integer("threads", 0, 0, 4096));
  options.precision =
      parse_precision(trainer.string("precision", "float32"), "trainer.precision");
  FM_CHECK_USAGE(options.precision.type != at::kDouble, trainer.where("precision"),
                 ": training runs in float32, tf32 or bf16");
  options.gradient_checkpointing = trainer.boolean("gradient_checkpointing", false);
  options.channels_last = trainer.boolean("channels_last", false);
  options.device = trainer.string("device", "cpu");
  options.optimizer = read_optimizer_options(trainer.child("optimizer"));
  options.lr = read_lr_schedule(trainer, options.duration);
  FM_CHECK_USAGE(options.lr.base > 0, trainer.where("lr"),
                 ": trainer.lr must be above 0");
  options.ema = read_ema_profiles(trainer);
  return options;
}

}  // namespace flowmap
