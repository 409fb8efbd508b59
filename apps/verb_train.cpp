// flowmap train: from a config file (and EDM's flags) to a run folder.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/cli.h"
#include "apps/train_setup.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/train/run_folder.h"
#include "flowmap/train/trainer.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

// A flag of EDM's train.py that is a twin of a configuration key.
struct TwinFlag {
  const char* flag;
  const char* key;
  const char* help;
  enum class Kind { text, path, number, boolean, mimg, kimg } kind;
};

constexpr TwinFlag kTwins[] = {
    {"--data", "data.path", "data set: EDM zip, folder of idx files, ...",
     TwinFlag::Kind::path},
    {"--cond", "data.labels", "use class labels (1/0)", TwinFlag::Kind::boolean},
    {"--arch", "network.type", "network: ddpmpp, ncsnpp, mlp", TwinFlag::Kind::text},
    {"--precond", "preconditioning.type", "preconditioning: edm, vp, ve, flow",
     TwinFlag::Kind::text},
    {"--batch", "trainer.batch", "images of one step, over all devices",
     TwinFlag::Kind::number},
    {"--batch-gpu", "trainer.batch_gpu", "images of one micro-batch",
     TwinFlag::Kind::number},
    {"--duration", "trainer.duration", "length of training: Mimg, or 200Ki, 10Mi",
     TwinFlag::Kind::mimg},
    {"--lr", "trainer.lr", "learning rate", TwinFlag::Kind::number},
    {"--dropout", "network.dropout", "dropout probability", TwinFlag::Kind::number},
    {"--cbase", "network.model_channels", "channels of the first level",
     TwinFlag::Kind::number},
    {"--xflip", "trainer.xflip", "random horizontal flips (1/0)",
     TwinFlag::Kind::boolean},
    {"--augment", "trainer.augment", "probability of EDM's augmentations, 0: none",
     TwinFlag::Kind::number},
    {"--tick", "trainer.tick", "status line every so many kimg", TwinFlag::Kind::kimg},
    {"--snap", "trainer.snap", "snapshot every so many ticks", TwinFlag::Kind::number},
    {"--dump", "trainer.dump", "training state every so many ticks",
     TwinFlag::Kind::number},
    {"--seed", "trainer.seed", "random seed", TwinFlag::Kind::number},
    {"--threads", "trainer.threads", "CPU threads (0: all)", TwinFlag::Kind::number},
    {"--precision", "trainer.precision", "float32, tf32 or bf16", TwinFlag::Kind::text},
    {"--device", "trainer.device", "cpu, cuda, cuda:1", TwinFlag::Kind::text},
};

std::string json_text(const std::string& text) { return nlohmann::json(text).dump(); }

// The value as a JSON text; counts stay as they were typed ("200Ki", "0.5").
std::string twin_json(const TwinFlag& twin, const std::string& text) {
  switch (twin.kind) {
    case TwinFlag::Kind::text: return json_text(text);
    case TwinFlag::Kind::path: return json_text(fs::absolute(text).string());
    case TwinFlag::Kind::boolean: return parse_bool(text, twin.flag) ? "true" : "false";
    case TwinFlag::Kind::number:
      return nlohmann::json(parse_double(text, twin.flag)).dump();
    case TwinFlag::Kind::mimg: parse_count(text, CountUnit::mimg, twin.flag); break;
    case TwinFlag::Kind::kimg: parse_count(text, CountUnit::kimg, twin.flag); break;
  }
  return nlohmann::json::accept(text) ? text : json_text(text);
}

struct TrainArguments {
  std::string config, outdir, desc, resume, transfer, ema, fp16, ls;
  std::vector<std::string> cres, ignored, overrides;
  bool nosubdir = false, dry_run = false;
  std::vector<std::string> twins = std::vector<std::string>(std::size(kTwins));
};

void apply_flags(const TrainArguments& arguments, Config& config) {
  for (std::size_t i = 0; i < std::size(kTwins); ++i) {
    if (arguments.twins[i].empty()) continue;
    const TwinFlag& twin = kTwins[i];
    config.set_json(twin.key, twin_json(twin, arguments.twins[i]), twin.flag);
  }
  if (!arguments.cres.empty())
    config.set_json("network.channel_mult", "[" + join(arguments.cres, ",") + "]",
                    "--cres");
  if (!arguments.ema.empty()) {
    const int64_t images = parse_count(arguments.ema, CountUnit::mimg, "--ema");
    config.set_json("trainer.ema",
                    format(R"([{"type": "halflife", "images": %lld}])",
                           static_cast<long long>(images)),
                    "--ema");
  }
  if (!arguments.transfer.empty())
    config.set_json("transfer", json_text(fs::absolute(arguments.transfer).string()),
                    "--transfer");
  for (std::string text : arguments.overrides) {
    if (text == "-" || text == "--") continue;
    config.set_override(text, "command line");
  }
}

// Settings of EDM's that would train something else than they say.
void refuse_what_differs(const TrainArguments& a) {
  FM_CHECK_USAGE(a.fp16.empty() || !parse_bool(a.fp16, "--fp16"),
                 "--fp16: not offered, it diverges without loss scaling; use ",
                 "--precision bf16");
  FM_CHECK_USAGE(a.ls.empty() || parse_double(a.ls, "--ls") == 1,
                 "--ls: loss scaling is for fp16, which is not offered; pass --ls=1");
  FM_CHECK_USAGE(a.resume.empty() || a.outdir.empty(),
                 "--resume and --outdir exclude each other: a run continues in its own ",
                 "folder");
  FM_CHECK_USAGE(a.resume.empty() || a.transfer.empty(),
                 "--resume and --transfer exclude each other");
  FM_CHECK_USAGE(a.desc.find('/') == std::string::npos, "--desc: '", a.desc,
                 "' may hold no '/'");
}

}  // namespace

int run_train(std::span<const std::string> words) {
  TrainArguments arguments;
  CLI::App app(
      "Train a network from a configuration file, or with EDM's flags.\n\n"
      "  flowmap train --config configs/fashion-mnist/lsd.json --outdir training-runs\n"
      "  flowmap train --config FILE --outdir DIR - trainer.batch=64 method.eta=0.5\n"
      "  flowmap train --outdir training-runs --data cifar10-32x32.zip --cond 1 "
      "--arch ddpmpp\n"
      "  flowmap train --resume training-runs/00000-...\n",
      "flowmap train");
  app.add_option("--config", arguments.config, "configuration file (JSON with comments)");
  app.add_option("--outdir", arguments.outdir, "where run folders are made");
  app.add_flag("--nosubdir", arguments.nosubdir,
               "use OUTDIR itself, and continue what it holds");
  app.add_option("--desc", arguments.desc, "text at the end of the run folder's name");
  app.add_option("--resume", arguments.resume,
                 "run folder (or training-state folder) to continue in place");
  app.add_option("--transfer", arguments.transfer, "snapshot to take weights from");
  app.add_option("--ema", arguments.ema, "half-life of the average: Mimg, or 500Ki");
  app.add_option("--cres", arguments.cres, "channel multipliers, e.g. 2,2,2")
      ->delimiter(',');
  app.add_flag("-n,--dry-run", arguments.dry_run,
               "print the resolved configuration, parameters, FLOPs and memory; stop");
  for (std::size_t i = 0; i < std::size(kTwins); ++i)
    app.add_option(kTwins[i].flag, arguments.twins[i],
                   std::string(kTwins[i].help) + "  [" + kTwins[i].key + "]");
  for (const char* flag : {"--workers", "--bench", "--cache"})
    app.add_option(flag, arguments.ignored, "accepted for EDM's sake, has no effect");
  app.add_option("--fp16", arguments.fp16, "EDM's half precision: only 0");
  app.add_option("--ls", arguments.ls, "EDM's loss scaling: only 1");
  app.add_option("overrides", arguments.overrides, "key=value settings");
  app.allow_extras();
  if (!parse_arguments(app, words)) return 0;
  // `--section.key=value` reaches us as an extra.
  for (const std::string& extra : app.remaining()) {
    const std::string name = extra.substr(0, extra.find('='));
    FM_CHECK_USAGE(extra == "-" || (name.find('.') != std::string::npos && name != extra),
                   "unknown option '", name, "'", flag_hint(name, app));
    arguments.overrides.push_back(extra);
  }

  refuse_what_differs(arguments);
  install_interrupt_handler();
  Config config;
  fs::path run;
  std::optional<fs::path> state;
  if (!arguments.resume.empty()) {
    run = run_of(arguments.resume);
    state = latest_state(run);
    const fs::path named(arguments.resume);
    FM_CHECK_USAGE(!fs::exists(named / "state.json") || fs::equivalent(named, *state),
                   "--resume: ", state->string(), " is newer than ", named.string(),
                   "; move it away to go back in time");
    if (arguments.config.empty()) arguments.config = (run / "training_options.json");
  } else if (arguments.nosubdir) {
    FM_CHECK_USAGE(!arguments.outdir.empty(), "--nosubdir needs --outdir");
    run = arguments.outdir;
    if (fs::exists(run)) state = latest_state(run);
  }
  config = arguments.config.empty() ? edm_defaults() : Config::from_file(arguments.config);
  apply_flags(arguments, config);

  if (arguments.dry_run && !config.has("data")) {
    log_line(architecture_report(config));
    return 0;
  }
  TrainSetup setup = prepare_training(config, state.has_value());
  if (arguments.dry_run) {
    log_line(dry_run_report(setup, config));
    return 0;
  }
  FM_CHECK_USAGE(!arguments.outdir.empty() || !run.empty(),
                 "--outdir is missing: the folder in which the run folder is made");
  const std::string resolved = resolved_options(config);
  if (state) check_same_run(run / "training_options.json", resolved);
  if (run.empty())
    run = new_run_folder(arguments.outdir, run_description(setup, arguments.desc));
  make_directories(run);
  write_file_atomic(run / "training_options.json", resolved);
  open_log_file(run / "log.txt");
  log_line("run folder: " + fs::absolute(run).lexically_normal().string());
  log_line(setup_summary(setup));
  if (!state) write_reals(setup, run / "reals.png");

  Trainer trainer(setup.options, setup.task, setup.dataset, run, training_hooks(setup));
  if (state) {
    try {
      trainer.resume(*state);
    } catch (const DataError& error) {
      throw Error(std::string(error.what()) + "; move " + state->string() +
                  " away to continue from the state before it");
    }
    log_line("continuing from " + state->filename().string());
  }
  const Trainer::Outcome outcome = trainer.run();
  if (outcome == Trainer::Outcome::interrupted) {
    log_line("interrupted; everything is saved. Continue with:\n  flowmap train --resume '" +
             fs::absolute(run).lexically_normal().string() + "'");
    return 130;
  }
  log_line("finished: " + run.string());
  return 0;
}

}  // namespace flowmap::apps
