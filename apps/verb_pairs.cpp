// flowmap pairs: noise and what a teacher makes of it, in a folder of shards.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/build_facts.h"
#include "apps/cli.h"
#include "apps/pair_flags.h"
#include "apps/pairs_verify.h"
#include "apps/picture.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/pairs/pair_store.h"

namespace flowmap::apps {
namespace {

struct PairsOptions {
  SamplingFlags sampling;
  std::string seeds, dest, images, dtype_images;
  int64_t num = 0, shard_size = 4096, batch = 64;
};

void declare_pairs(CLI::App& app, PairsOptions& o) {
  add_sampling_flags(app, o.sampling);
  add_class_flag(app, o.sampling);
  app.add_option("--num", o.num, "how many pairs: seeds 0 to NUM - 1")
      ->check(whole_number(1, int64_t{1} << 40));
  app.add_option("--seeds", o.seeds,
                 "seeds instead: 0-9999 (rising; machines take ranges of their own, and "
                 "merge joins them)");
  app.add_option("--dest", o.dest, "folder of the shards; one that is there is continued")
      ->check(not_empty());
  app.add_option("--dtype-images,--dtype_images", o.dtype_images,
                 "how samples are stored: u8 (default for pictures), f16, f32 (default "
                 "for all else); the floats unclipped");
  app.add_option("--shard-size,--shard_size", o.shard_size, "pairs of one file")
      ->check(whole_number(1, int64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--batch", o.batch, "pairs at once")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--images", o.images,
                 "instead of samples, these images with the noise that the ODE backwards "
                 "gives of them (heun or euler, 64 steps)")
      ->check(not_empty());
  app.footer(
      "\nExamples: flowmap pairs --network teacher.safetensors --num 100000 --solver heun "
      "--steps 18 --dest pairs\n"
      "          flowmap pairs verify pairs --network teacher.safetensors\n"
      "          flowmap pairs merge --dest all pairs-a pairs-b\n"
      "          flowmap pairs inspect pairs --picture pairs.png");
}

DType parse_image_dtype(const std::string& text, const std::vector<int64_t>& shape) {
  const bool picture = shape.size() == 3 && (shape[0] == 1 || shape[0] == 3);
  if (text.empty()) return picture ? DType::U8 : DType::F32;
  FM_CHECK_USAGE(text != "u8" || picture, "--dtype-images: samples of shape ",
                 shape_text(shape), " are no pictures; use f16 or f32");
  if (text == "u8") return DType::U8;
  if (text == "f16") return DType::F16;
  if (text == "f32") return DType::F32;
  throw UsageError("--dtype-images: u8, f16 or f32 is expected, not '" + text + "'");
}

// The images to be inverted, with the classes that the teacher wants.
std::shared_ptr<Dataset> images_to_invert(const PairsOptions& o, const ModelInfo& info) {
  Config options;
  options.set_override("path=" + o.images, "--images");
  if (info.label_dim > 0 && o.sampling.classes.empty())
    options.set_override("labels=true", "--images");
  std::shared_ptr<Dataset> data;
  under_flag("--images", [&] { data = make_dataset(options); });
  FM_CHECK_USAGE(data->info().sample_shape == info.sample_shape, "--images: shape ",
                 shape_text(data->info().sample_shape), " does not fit the network's ",
                 shape_text(info.sample_shape));
  FM_CHECK_USAGE(data->info().label_dim == 0 || data->info().label_dim == info.label_dim,
                 "--images: ", data->info().label_dim, " classes, and the network has ",
                 info.label_dim);
  return data;
}

// Batches of one shard, from a row on.
using RowMaker = std::function<void(
    const PairShard& shard, int64_t first_row,
    const std::function<bool(const PairWriter::Part& rows)>& deliver)>;

RowMaker samples_of_seeds(Sampling sampling, int64_t batch) {
  return [=](const PairShard& shard, int64_t first_row, const auto& deliver) {
    samplers::GenerateRequest request = sampling.request;
    request.batch = batch;
    for (int64_t row = first_row; row < shard.count; ++row)
      request.seeds.push_back(shard.first_seed + static_cast<std::uint64_t>(row));
    if (sampling.one_class >= 0)
      request.classes = at::full({shard.count - first_row}, sampling.one_class, at::kLong);
    samplers::generate_batches(*sampling.model, *sampling.sampler, sampling.schedule,
                               request, [&](const samplers::GeneratedBatch& made) {
                                 return deliver({made.samples, made.classes, {}});
                               });
  };
}

RowMaker noise_of_images(Sampling sampling, std::shared_ptr<Dataset> data, int64_t batch) {
  return [=](const PairShard& shard, int64_t first_row, const auto& deliver) {
    for (int64_t row = first_row; row < shard.count; row += batch) {
      const auto first = static_cast<int64_t>(shard.first_seed);
      const at::Tensor index =
          at::arange(first + row, first + std::min(row + batch, shard.count), at::kLong);
      const at::Tensor samples = samples_to_float(data->samples(index));
      at::Tensor classes;
      if (const at::Tensor labels = data->labels(index); labels.defined())
        classes = labels.argmax(1);
      else if (sampling.model->info().label_dim > 0)
        classes = at::full({samples.size(0)}, sampling.one_class, at::kLong);
      if (!deliver({samples, classes, inverted_noise(sampling, samples, classes)})) return;
    }
  };
}

void append_rows(PairWriter::Part& to, const PairWriter::Part& rows, DType stored) {
  const auto add = [](at::Tensor& whole, const at::Tensor& more) {
    if (more.defined()) whole = whole.defined() ? at::cat({whole, more}) : more;
  };
  // Bytes as soon as they can be: a shard of floats is four times as large.
  const bool bytes = stored == DType::U8 && rows.images.is_floating_point() &&
                     rows.images.isfinite().all().item<bool>();
  add(to.images, bytes ? images_to_bytes(rows.images) : rows.images);
  add(to.classes, rows.classes);
  add(to.noise, rows.noise);
}

void make_missing(PairWriter& writer, const RowMaker& make, const std::string& dest) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const int64_t total = writer.manifest().count();
  const DType stored = writer.manifest().recipe.images;
  const int64_t kept = total - writer.missing_pairs();
  int64_t there = kept, made = 0;
  const auto seconds = [&] {
    return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
  };
  install_interrupt_handler();
  LiveLine live;
  for (const std::size_t position : writer.missing()) {
    const PairShard shard = writer.manifest().shards[position];
    PairWriter::Part rows = writer.part(position);
    int64_t done = rows.images.defined() ? rows.images.size(0) : 0;
    there += done;
    std::vector<PairWriter::Part> parts;
    if (done < shard.count)
      make(shard, done, [&](const PairWriter::Part& more) {
        parts.push_back({});
        append_rows(parts.back(), more, stored);
        const int64_t size = more.images.size(0);
        done += size, there += size, made += size;
        const double rate = static_cast<double>(made) / seconds();
        live.update(format("%lld/%lld  %.1f pairs/s  ETA %s", static_cast<long long>(there),
                           static_cast<long long>(total), rate,
                           format_duration(static_cast<double>(total - there) / rate)
                               .c_str()));
        return !interrupted();
      });
    for (const PairWriter::Part& part : parts) append_rows(rows, part, stored);
    if (done == shard.count)
      writer.write(position, rows.images, rows.classes, rows.noise);
    else
      writer.keep_part(position, rows.images, rows.classes, rows.noise);
    if (interrupted() && there < total) {
      live.clear();
      throw Interrupted(format("interrupted after %lld of %lld pairs; %s keeps them, and "
                               "the same command makes the rest",
                               static_cast<long long>(there), static_cast<long long>(total),
                               dest.c_str()));
    }
  }
  live.clear();
  std::string text = format("%lld pairs in %s (%zu shard%s)", static_cast<long long>(total),
                            dest.c_str(), writer.manifest().shards.size(),
                            writer.manifest().shards.size() == 1 ? "" : "s");
  if (made < total)
    text += format(", %lld of them there already", static_cast<long long>(total - made));
  if (made > 0)
    text += format("; %.2f s, %.1f pairs/s", seconds(),
                   static_cast<double>(made) / seconds());
  log_line(text);
}

int run_pairs_make(std::span<const std::string> arguments) {
  CLI::App app("Noise and what a teacher makes of it: pairs to learn from.",
               "flowmap pairs");
  PairsOptions o;
  declare_pairs(app, o);
  if (!parse_arguments(app, arguments)) return 0;
  FM_CHECK_USAGE(!o.dest.empty(), "--dest is missing: the folder of the pairs");
  const bool inverts = !o.images.empty();
  FM_CHECK_USAGE(!inverts || o.seeds.empty(), "--seeds: with --images rows are the images; ",
                 "use --num");
  FM_CHECK_USAGE(inverts || (o.num > 0) != !o.seeds.empty(),
                 o.num > 0 ? "--num and --seeds exclude each other"
                           : "give --num or --seeds: which pairs to make");
  std::vector<SeedRange> ranges;
  if (!o.seeds.empty())
    ranges = seed_ranges(parse_int_list(o.seeds, "--seeds"), "--seeds");
  else
    ranges = {{0, o.num}};
  std::string& solver = o.sampling.solver.solver;
  if (inverts) {
    if (solver.empty()) solver = "heun";
    FM_CHECK_USAGE(solver == "heun" || solver == "euler", "--solver: '", solver,
                   "' does not run backwards; use heun or euler");
    if (app.count("--steps") + app.count("--t_steps") + app.count("--sigma_steps") == 0)
      o.sampling.schedule.grid.steps = 64;  // few steps do not lead back
  }
  const Sampling sampling = prepare_sampling(app, o.sampling);
  const ModelInfo info = sampling.model->info();

  PairManifest wanted;
  wanted.recipe = pair_recipe(app, o.sampling, sampling);
  wanted.recipe.images = parse_image_dtype(o.dtype_images, info.sample_shape);
  wanted.recipe.source = "seeds";
  wanted.recipe.stored_noise = inverts;
  wanted.shard_size = o.shard_size;
  wanted.tool = std::string("flowmap ") + kVersion;
  wanted.command =
      command_words(arguments, {"--seeds", "--num", "--dest", "--shard-size",
                                "--shard_size", "--device"});
  RowMaker make;
  if (inverts) {
    const std::shared_ptr<Dataset> data = images_to_invert(o, info);
    const int64_t count = data->info().count;
    FM_CHECK_USAGE(o.num <= count, "--num: ", o.images, " holds ", count, " images, not ",
                   o.num);
    ranges = {{0, o.num > 0 ? o.num : count}};
    wanted.recipe.source = "images " + weights_checksum(o.images);
    if (data->info().label_dim > 0) wanted.recipe.classes = "images";
    if (o.num > 0) wanted.command += " --num " + std::to_string(o.num);
    make = noise_of_images(sampling, data, o.batch);
  } else {
    make = samples_of_seeds(sampling, o.batch);
  }
  PairWriter writer(o.dest, wanted, ranges);
  make_missing(writer, make, o.dest);
  return 0;
}

int run_pairs_merge(std::span<const std::string> arguments) {
  CLI::App app("Joins folders of pairs of one teacher by their seeds.",
               "flowmap pairs merge");
  std::string dest;
  std::vector<std::string> folders;
  app.add_option("--dest", dest, "folder to make")->required()->check(not_empty());
  app.add_option("FOLDERS", folders, "folders of pairs")->required();
  if (!parse_arguments(app, arguments)) return 0;
  const PairManifest merged = merge_pairs(dest, {folders.begin(), folders.end()});
  log_line(format("%lld pairs, seeds %s, in %s (%zu shards)",
                  static_cast<long long>(merged.count()), merged.seeds().c_str(),
                  dest.c_str(), merged.shards.size()));
  return 0;
}

int run_pairs_inspect(std::span<const std::string> arguments) {
  CLI::App app("What a folder of pairs holds.", "flowmap pairs inspect");
  std::string folder, picture;
  bool overwrite = false;
  app.add_option("FOLDER", folder, "folder of pairs")->required();
  app.add_option("--picture", picture, "PNG to write: the first samples")
      ->check(not_empty());
  app.add_flag("--overwrite", overwrite, "replace the file if it is there");
  if (!parse_arguments(app, arguments)) return 0;
  if (!picture.empty()) {
    require_ending(picture, ".png", "--picture");
    prepare_output(picture, overwrite, "--picture");
  }
  const PairManifest manifest = read_pair_manifest(folder);
  const PairRecipe& r = manifest.recipe;
  const std::vector<std::string> faults = shard_faults(folder, manifest, true);
  const auto whole = std::count(faults.begin(), faults.end(), "");
  std::string text = format(
      "pairs:    %lld, %s %s\nsamples:  %s as %s%s\nclasses:  %s\nteacher:  %s (sha256 "
      "%s...)\nsampling: %s, %zu knots (%s), guidance %g, %s\nshards:   %td of %zu whole, %lld "
      "pairs each",
      static_cast<long long>(manifest.count()), r.stored_noise ? "images" : "seeds",
      manifest.seeds().c_str(), shape_text(r.sample_shape).c_str(),
      to_lower(dtype_name(r.images)).c_str(),
      r.stored_noise ? ", noise stored (inverted)" : ", noise by seed",
      r.class_count == 0 ? "none" : format("%lld, by %s", static_cast<long long>(r.class_count),
                                           r.classes.c_str()).c_str(),
      r.teacher.c_str(), r.teacher_sha256.substr(0, 12).c_str(), r.solver.c_str(),
      r.times.size(), r.schedule.c_str(), r.guidance, r.dtype.c_str(), whole, faults.size(),
      static_cast<long long>(manifest.shard_size));
  for (std::size_t i = 0; i < faults.size(); ++i)
    if (!faults[i].empty()) text += "\n  " + manifest.shards[i].file + " " + faults[i];
  log_line(text);
  if (whole < static_cast<std::ptrdiff_t>(faults.size()))
    log_line("make what is missing with: " + manifest.remedy(folder));
  if (picture.empty()) return 0;
  const PairStore store(folder, false);
  const bool points = r.sample_shape.size() != 3;
  FM_CHECK_USAGE(points ? r.sample_shape[0] == 2
                        : r.sample_shape[0] == 1 || r.sample_shape[0] == 3,
                 "--picture: samples of shape ", shape_text(r.sample_shape),
                 " have no picture");
  const at::Tensor rows = at::arange(std::min<int64_t>(store.count(), points ? 16384 : 64));
  write_png(picture, samples_picture(samples_to_float(store.images(rows)), 8));
  return 0;
}

}  // namespace

int run_pairs(std::span<const std::string> arguments) {
  const std::vector<std::string> words{"verify", "merge", "inspect"};
  if (arguments.empty() || arguments[0].starts_with("-")) return run_pairs_make(arguments);
  const auto rest = arguments.subspan(1);
  if (arguments[0] == "verify") return run_pairs_verify(rest);
  if (arguments[0] == "merge") return run_pairs_merge(rest);
  if (arguments[0] == "inspect") return run_pairs_inspect(rest);
  throw UsageError("unknown word '" + arguments[0] + "'" + suggestion(arguments[0], words));
}

}  // namespace flowmap::apps
