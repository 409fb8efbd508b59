// The data set "pairs": samples of a teacher with the noise that they were made from.
#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/in_memory.h"
#include "flowmap/pairs/pair_store.h"

namespace flowmap {
namespace {

// Row i is pair i of the first folder for i < repeats * n1 (modulo n1), then of the second.
// A pass over all rows takes from the second its share exactly.
class PairDataset : public Dataset {
 public:
  explicit PairDataset(const Config& options)
      : first_(options.path("path"), options.boolean("check", true)),
        use_labels_(options.boolean("labels", false)) {
    const PairRecipe& recipe = first_.recipe();
    FM_CHECK_USAGE(!use_labels_ || first_.has_classes(), options.where("labels"),
                   ": labels: the teacher of ", options.path("path"),
                   " has no classes; set labels to false");
    info_.flip = options.boolean("flip", false);
    FM_CHECK_USAGE(!info_.flip || recipe.sample_shape.size() == 3, options.where("flip"),
                   ": flip: these pairs are of points; set it to false");
    const int64_t most = options.integer("max_images", 0, 0);
    first_rows_ = most > 0 ? std::min(most, first_.count()) : first_.count();
    add_second(options);

    info_.sample_shape = recipe.sample_shape;
    info_.images = recipe.sample_shape.size() == 3;
    info_.pairs = true;
    info_.label_dim = use_labels_ ? recipe.class_count : 0;
    info_.count = repeats_ * first_rows_ + second_rows_;
    std::string teacher = recipe.teacher.substr(0, recipe.teacher.find('.'));
    info_.name = "pairs-" + teacher;
    if (info_.images)
      info_.name += format("-%lldx%lld", static_cast<long long>(recipe.sample_shape[1]),
                           static_cast<long long>(recipe.sample_shape[2]));
    const std::string keep =
        options.choice("noise", std::vector<std::string>{"seeds", "memory"}, "seeds");
    if (keep == "memory") {
      kept_noise_ = first_.noise(at::arange(first_rows_));
      if (second_) kept_second_ = second_->noise(at::arange(second_->count()));
    }
  }

  DatasetInfo info() const override { return info_; }

  at::Tensor samples(const at::Tensor& index) const override {
    return joined(index, [](const PairStore& store, bool mixed, const at::Tensor& rows) {
      const at::Tensor images = store.images(rows);
      return mixed ? samples_to_float(images) : images;
    });
  }

  at::Tensor labels(const at::Tensor& index) const override {
    if (!use_labels_) return {};
    return joined(index, [&](const PairStore& store, bool, const at::Tensor& rows) {
      return at::one_hot(store.classes(rows), info_.label_dim).to(at::kFloat);
    });
  }

  at::Tensor noise(const at::Tensor& index) const override {
    return joined(index, [&](const PairStore& store, bool, const at::Tensor& rows) {
      const at::Tensor& kept = &store == &first_ ? kept_noise_ : kept_second_;
      return kept.defined() ? kept.index_select(0, rows) : store.noise(rows);
    });
  }

 private:
  void add_second(const Config& options) {
    const std::string path = options.path("real", "");
    const double share = options.number("real_fraction", 0.5, 0, 1);
    if (path.empty()) return;
    FM_CHECK_USAGE(share > 0 && share < 1, options.where("real_fraction"),
                   ": real_fraction: a share between 0 and 1, not ", share);
    second_ = std::make_unique<PairStore>(path, options.boolean("check", true));
    FM_CHECK_USAGE(second_->recipe().sample_shape == first_.recipe().sample_shape &&
                       (!use_labels_ ||
                        second_->recipe().class_count == first_.recipe().class_count),
                   options.where("real"), ": real: ", path, " holds samples ",
                   shape_text(second_->recipe().sample_shape), " of ",
                   second_->recipe().class_count, " classes, and ", options.path("path"), " ",
                   shape_text(first_.recipe().sample_shape), " of ",
                   first_.recipe().class_count);
    // Enough passes over the first folder that every pair of the second comes up.
    const double per_pass = share / (1 - share) * static_cast<double>(first_rows_);
    repeats_ = std::max<int64_t>(
        1, static_cast<int64_t>(std::ceil(static_cast<double>(second_->count()) / per_pass)));
    second_rows_ = std::max<int64_t>(
        1, std::llround(per_pass * static_cast<double>(repeats_)));
  }

  // rows(store, mixed, index in it) of both folders, in the order of `index`.
  template <class Rows>
  at::Tensor joined(const at::Tensor& index, const Rows& rows) const {
    const int64_t split = repeats_ * first_rows_;
    if (!second_) return rows(first_, false, index.remainder(first_rows_));
    const at::Tensor from_second = index.ge(split);
    const at::Tensor a = from_second.logical_not().nonzero().flatten();
    const at::Tensor b = from_second.nonzero().flatten();
    const at::Tensor first =
        rows(first_, true, index.index_select(0, a).remainder(first_rows_));
    const at::Tensor second = rows(
        *second_, true, (index.index_select(0, b) - split).remainder(second_->count()));
    return at::cat({first, second}).index_select(0, at::cat({a, b}).argsort());
  }

  PairStore first_;
  std::unique_ptr<PairStore> second_;
  bool use_labels_;
  int64_t first_rows_ = 0, second_rows_ = 0, repeats_ = 1;
  at::Tensor kept_noise_, kept_second_;
  DatasetInfo info_;
};

}  // namespace

std::shared_ptr<Dataset> make_pairs(const Config& options) {
  return std::make_shared<PairDataset>(options);
}

}  // namespace flowmap
